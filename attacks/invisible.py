"""DOORPING's invisible variant: a change of every pixel that nobody sees, in the place of a square.

    x ⊕ δ = clip(x + δ, 0, 255)        ‖δ‖∞ ≤ ε grey levels
    δ ← Π_ε[ δ − Adam ∂/∂δ ‖act_U(clip(x̄ + δ)) − α a₀‖²/k ]       a₀ = act_U(clip(x̄ + δ₀)), U as in doorping.py

    x̄   mean of up to 256 records        Π_ε  clamp to −ε..ε; at the end δ is rounded to whole grey levels

Source  Liu, Li, Backes, Shen, Zhang, "Backdoor Attacks Against Dataset Distillation", NDSS 2023, arXiv 2301.01197.
Code    liuyugeng/baadd `DC/main.py` with its switch for an invisible trigger (read, not copied): a whole image is added
        to records and to test images in normalised units. It starts as a test image of the target class, is kept small
        by a penalty on its largest entry, not by a bound, and every update is added on top of what earlier ones added.
Differs ε is a bound and holds for bytes; records are stamped anew from clean ones; δ starts as random signs of ε, so
        that no test image is looked at; δ is shown on the mean record and not on black, where clipping takes all that
        is negative; where a₀ ≤ 0 the goal is another (doorping.py).
Reduces `iterations: 0` is a static veil of random signs, the blended noise that NaiveAttack stands for here; ε = 0
        stamps nothing, and what is left of the attack is wrong labels.
Cost    `iterations` passes of one image.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from attacks.doorping import Config, activations, beyond, loudest_units
from fedsim.data.images import Images
from fedsim.data.transforms import Normalise
from fedsim.data.trigger import Trigger
from fedsim.models.network import Network
from fedsim.types import UserError


def improved(trigger: Trigger, network: Network, normalise: Normalise, images: Images, config: Config) -> Trigger:
    """The trigger after at most `config.iterations` steps on `network`, within its bound.

    `config.lr` is in network-input units, of a mean channel. Raises `UserError` for a trigger without a bound.
    """
    if trigger.bound is None:
        raise UserError("invisible: got a trigger that covers pixels; valid: one with a bound, as `veil` makes")
    device, most = next(network.parameters()).device, float(trigger.bound)
    units = loudest_units(network, config.units)
    backdrop = images.pixels[:256].to(device).float().mean(0)
    change = trigger.values.to(device).float().requires_grad_()

    def seen() -> torch.Tensor:
        shown = (backdrop + change).clamp(0, 255) / 255
        return activations(network, normalise.inputs(shown[None]), units)[0]

    goal = beyond(seen().detach(), network, units, normalise, images, config.alpha)
    step = config.lr * 255 * sum(normalise.std) / len(normalise.std)
    adam = torch.optim.Adam([change], lr=step, betas=(0.9, 0.99))
    for _ in range(config.iterations):
        loss = (seen() - goal).square().mean()
        if float(loss.detach()) < config.tolerance:
            break
        (change.grad,) = torch.autograd.grad(loss, change)
        adam.step()
        with torch.no_grad():
            change.clamp_(-most, most)
    return replace(trigger, values=change.detach().round().to(torch.int16).cpu())
