"""`privacy: dp_sgd`: clients train by SGD on clipped, summed, noisy gradients of single records and send the weights.

    B_t ⊂ D_k   each record with probability q, independently          for t = 1 … T in every round
    g̃_t = Σ_{i ∈ B_t} clip_C(∇_w ℓ(w_t; x_i, y_i)) + σC · N(0, I)      one release of sensitivity C each
    w_{t+1} = w_t − η g̃_t / L                                         SGD with momentum and decay, on g̃/L

    q  public rate of Poisson sampling     C  norm of a record's whole gradient     L  public divisor
    σ  noise multiplier                    T  `steps`, else local.epochs / q, rounded to at least 1

The divisor L is q × `public_bound` unless given. The size of the drawn batch, or q n_k, would be a number of the data:
neighbours would then differ in every record's share, which the sensitivity C does not allow for. An empty batch is a
step of noise alone; who holds no record takes as many steps as anybody. Beside the weights nothing leaves: no number of
records, no loss. Clipping, the sum and the noise are in float64 and on the grid of mechanism.py, with κ = 0.

Source  Abadi et al., "Deep Learning with Differential Privacy", CCS 2016, arXiv 1607.00133, Algorithm 1. The average of
        clients' weights is FedAvg's (fedavg.py), uniform here. Composition: accountant.py.
Code    opacus 1.6 (Apache-2.0): GradSampleModule (gradients of single records) and DPOptimizer (divisor, accumulation
        over pieces of a batch) are used; its clipping and noise, in float32, are replaced.
Differs the divisor is public (opacus divides by the expected batch size of the data it is given); networks run as they
        are written, whatever `compute` says; `local.batch_size` is refused; neither augmentation nor mixing.
Reduces C → ∞, σ → 0: SGD on the sum of the losses of a Poisson batch over L.
Cost    T passes over q n_k records with one gradient each, `MOST` numbers of them in memory at once.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from pydantic import Field
from torch import Tensor, nn

from fedsim.data.images import Images
from fedsim.data.transforms import Normalise
from fedsim.models.functional import has_batch_norm
from fedsim.privacy.agreement import Agreement, Terms
from fedsim.privacy.ledger import Charge, Ledger
from fedsim.privacy.mechanism import Mechanism, clipped, finite, perturbed
from fedsim.privacy.noise import Noise
from fedsim.privacy.owner import full_precision
from fedsim.training.train import TrainConfig, learning_rate
from fedsim.types import Params, UserError

MOST = 2**23
"""Entries of the gradients of single records that are in memory together, 64 MB in float64; on a CPU a quarter of them,
whose activations stay near."""

CACHED = 2**18
"""Entries of them that are clipped and summed together; a block of 2 MB in float64 is clipped four times as fast as all
of a batch."""


class Config(Terms):
    """DP-SGD at the clients of `fedavg`: every local step is a release."""

    name: Literal["dp_sgd"] = "dp_sgd"
    rate: float = Field(gt=0, le=1)
    """q: probability with which each record takes part in a step, independently; 1: every step sees all records."""
    clip: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """C: norm that the gradient of a record, all weights together, is clipped to."""
    steps: int | None = Field(default=None, ge=1)
    """T: local steps of a round; null: local.epochs / rate, rounded."""
    divisor: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """L: public number that a step's noisy sum is divided by; null: rate × public_bound."""

    def local_steps(self, training: TrainConfig) -> int:
        """T."""
        return self.steps if self.steps is not None else max(1, round(training.epochs / self.rate))


class DPSGD(Agreement):
    """The agreement of a run whose clients train privately."""

    Config = Config

    def __init__(self, config: Config, releases: int) -> None:
        super().__init__(config, releases)
        self.mechanism = Mechanism(config.clip, 0.0, self.sigma, config.rate)
        self.divisor = config.divisor if config.divisor is not None else config.rate * config.public_bound

    def weights(
        self, network: nn.Module, images: Images, normalise: Normalise, training: TrainConfig,
        question: str, source: Noise, ledger: Ledger,
    ) -> Params:  # fmt: skip
        """What `network` becomes in a round; charged before its first noise, and stored before it is returned."""
        check(network, training)
        steps = self.config.local_steps(training)

        def make() -> Params:
            self.train(network, images, normalise, training, source)
            return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}

        with full_precision():
            return ledger.once(Charge.of(question, self.mechanism, steps, simulated=source.simulated), make)

    def train(
        self, network: nn.Module, images: Images, normalise: Normalise, training: TrainConfig, source: Noise
    ) -> None:
        """T steps of `network`, in place; `images` lie on its device."""
        steps = self.config.local_steps(training)
        sgd = torch.optim.SGD(
            network.parameters(), lr=training.lr, momentum=training.momentum, weight_decay=training.weight_decay
        )
        optimiser = NoisySteps(sgd, self.mechanism, source, self.divisor)
        model = GradSampleModule(network, loss_reduction="sum")
        model.train()
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(training, step * training.epochs // steps)
            self._step(model, optimiser, self._batch(images, source), normalise)
        model.remove_hooks()
        network.eval()

    def _batch(self, images: Images, source: Noise) -> Images:
        """The records that take part in a step."""
        if self.mechanism.rate == 1:
            return images
        chosen = torch.nonzero(source.chosen(len(images), float(self.mechanism.rate))).flatten()
        return images.take(chosen.to(images.pixels.device))

    def _step(self, model: nn.Module, optimiser: NoisySteps, batch: Images, normalise: Normalise) -> None:
        """One step on `batch`, its gradients taken in pieces; there is one piece where there is no record."""
        most = MOST if batch.pixels.is_cuda else MOST // 4
        rows = max(1, most // sum(value.numel() for value in optimiser.params))
        pixels, labels = batch.pixels.split(rows), batch.labels.split(rows)
        for place, (inputs, targets) in enumerate(zip(pixels, labels, strict=True), start=1):
            optimiser.zero_grad()
            if len(targets):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # torch's, on hooks of the first layer: its inputs need no gradient
                    F.cross_entropy(model(normalise(inputs)), targets, reduction="sum").backward()
            else:
                optimiser.nobody()
            optimiser.signal_skip_step(do_skip=place < len(labels))
            optimiser.step()


class NoisySteps(DPOptimizer):
    """Opacus's optimiser with the clipping, the exact sum and the noise of mechanism.py in the place of its own."""

    def __init__(self, optimiser: torch.optim.Optimizer, mechanism: Mechanism, source: Noise, divisor: float) -> None:
        whole: Any = divisor  # opacus says int and divides by it
        super().__init__(
            optimiser, noise_multiplier=mechanism.sigma, max_grad_norm=mechanism.clip, expected_batch_size=whole
        )
        self.mechanism, self._source = mechanism, source
        self._total: Int64[Tensor, "p"] | None = None

    def nobody(self) -> None:
        """The gradients of no record."""
        for one in self.params:
            one.grad_sample = one.new_zeros((0, *one.shape))  # pyright: ignore[reportAttributeAccessIssue]

    def clip_and_accumulate(self) -> None:
        """Add the records of a piece, each clipped, in units of the grid."""
        samples = self.grad_samples
        rows = torch.cat([one.detach().flatten(1) for one in samples], dim=1)
        added = summed(rows, self.mechanism)
        self._total = added if self._total is None else self._total + added

    def add_noise(self) -> None:
        """The noisy sum becomes the gradient, in the weights' type: what is released is in float64."""
        assert self._total is not None, "a step follows at least one piece"
        noisy = perturbed(self._total.cpu(), self.mechanism, self._source)
        pieces = noisy.split([one.numel() for one in self.params])
        for one, piece in zip(self.params, pieces, strict=True):
            one.grad = piece.view(one.shape).to(one.device, one.dtype)
        self._total = None


def summed(rows: Float[Tensor, "n p"], mechanism: Mechanism) -> Int64[Tensor, "p"]:
    """Σ clip_C(g_i), each cut towards zero on the grid; a gradient that is not finite counts as zero.

    On a CPU it is taken over blocks that stay in its cache, and is the same up to the rounding of norms, which may be
    reduced in another order. The sensitivity does not depend on it: clipping leaves room for rounding, and the sum is
    of integers.
    """
    block = len(rows) if rows.is_cuda else max(1, CACHED // rows.shape[1])
    total = rows.new_zeros(rows.shape[1], dtype=torch.long)
    for part in rows.split(max(1, block)):
        total += (clipped(finite(part.double()), mechanism.clip) / mechanism.grid).trunc().long().sum(0)
    return total


def check(network: nn.Module, training: TrainConfig) -> None:
    """Refuse what gives a record no gradient of its own."""
    if has_batch_norm(network):
        raise UserError("model.norm: got batch; under dp_sgd a record's gradient must not depend on other records; "
                        "valid: instance, group, layer, none")  # fmt: skip
    if training.augment is not None or training.cutmix is not None:
        raise UserError("algorithm.local: got augment or cutmix, which dp_sgd does not offer; leave both out")
