"""Cells of what privacy costs on MNIST: one FedDM at several ε, its controls, and FedAvg under DP-SGD beside it."""

from __future__ import annotations

from itertools import product

from cell import Cell, seeds

CONFIG = "configs/federated/mnist_private.yaml"
NONE = ("privacy=", "controls.upload_real_subset=true")
STEPS = ("privacy={name: features, mode: per_step, target_epsilon: 10, clip: 8.0, kappa: 2.0, public_bound: 60000, noise: seeded, "
         "rate: 0.05}", "method.networks=fresh", "method.iterations=100")  # fmt: skip
GRADIENTS = (
    "algorithm=fedmk", "rounds=2", "method={name: meta_knowledge, ipc: 10, iterations: 10, init: noise, optimiser: adam, lr: 0.5, "
    "batch_real: 0, inner_steps: 5, inner_lr: 0.02, networks: fresh}",
    "privacy={name: gradients, target_epsilon: 10, clip: 1.0, kappa: 0.25, public_bound: 60000, noise: seeded, rate: 0.05}",
)  # fmt: skip
ROUNDS, RATES, Q, TOTAL = (1, 3, 10, 20), (0.5, 2.0), 0.05, 60
"""DP-SGD: rounds, local learning rates, sampling rate, local steps of a run in all; the divisor is q of a tenth of the images."""


def dp_fedavg(epsilon: float, rounds: int, lr: float) -> tuple[str, ...]:
    """FedAvg under DP-SGD that takes `TOTAL` local steps over its rounds."""
    steps = TOTAL // rounds
    local = f"{{epochs: 1, lr: {lr}, momentum: 0.0, weight_decay: 0.0, schedule: constant}}"
    terms = f"target_epsilon: {epsilon}, public_bound: 60000, rate: {Q}, steps: {steps}, divisor: 270, clip: 1.0, noise: seeded"
    return (
        f"algorithm={{name: fedavg, local: {local}}}", "method=", "server=", f"rounds={rounds}",
        f"privacy={{name: dp_sgd, {terms}}}",
    )  # fmt: skip


def cells() -> list[Cell]:
    """In the order in which they are worth most."""
    found = [
        cell
        for epsilon in (10, 1)
        for cell in seeds(f"features_eps{epsilon}", "run", CONFIG, (f"privacy.target_epsilon={epsilon}",), range(3))
    ]
    found += seeds("no_privacy", "run", CONFIG, NONE, range(3))
    found += [
        Cell(
            f"dp_fedavg_eps{epsilon}_r{rounds}_lr{lr:g}-s0", "run", CONFIG, (*dp_fedavg(epsilon, rounds, lr), "seed=0")
        )
        for epsilon, rounds, lr in product((10, 1), ROUNDS, RATES)
    ]
    found += seeds("features_per_step_eps10", "run", CONFIG, STEPS, range(1))
    return found + seeds("gradients_eps10", "run", CONFIG, GRADIENTS, range(1))
