"""DD-Ranking: what a synthetic set is worth once labels and augmentation are the same for all.

    α = w (a_syn − a_rdm) − (1 − w) (a_real − a_syn)                      IOR: a_syn − a_rdm;  HLR: a_real − a_syn
    β = γ (a_syn,aug − a_rdm,aug) + (1 − γ) (a_syn,plain − a_rdm,plain)
    LRS = f(α),  ARS = f(β),  f(x) = (e^x − e^{−1}) / (e − e^{−1})         f: [−1, 1] → [0, 1]

    a  accuracy, 0..1, after training on the synthetic set, a random real subset of its size, or all real images

Source  Li et al., "DD-Ranking: Rethinking the evaluation of dataset distillation", 2025, arXiv 2505.13300. The formulae
        are those of the project's documentation (doc/introduction.md); the paper's own text was not read.
Code    NUS-HPC-AI-Lab/DD-Ranking `hard_label.py`, `aug_robust.py` (MIT), read: the same α, β and f, w = γ = 0.5.
Differs hard labels only, in both terms: the release's IOR may use a method's own soft labels. No learning rate and no
        epoch is chosen on the test split: the release tries five rates for the synthetic and the random set and keeps
        the best epoch it tests. Here one given training, last iterate, for all; so scores are lower than, and not
        comparable to, its leaderboard. A random subset trains for as many steps as the set, of whose images one may
        hold several. ARS switches CutMix off on both sides. All trainings start from the same networks (network i of a
        set is the same in each), so that differences are between sets. One f of the mean accuracies; the release
        averages f over runs.
Reduces the random subset itself scores β = 0, ARS = f(0) = 1/(1 + e) ≈ 0.269.
Cost    2 · nets trainings on every synthetic and random set, nets on all real images; half as many again where the
        given training augments in a third way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from pydantic import Field

from fedsim.config import Section
from fedsim.data.augment import Config as DSAConfig
from fedsim.data.images import Images
from fedsim.data.transforms import Normalise
from fedsim.models.execution import AS_WRITTEN, Execution
from fedsim.models.network import Network
from fedsim.seeding import Streams
from fedsim.training.evaluate import EvaluationConfig, Score, score
from fedsim.training.train import TrainConfig, epochs_like


class RankingConfig(Section):
    """Label- and augmentation-robust scores of DD-Ranking, on hard labels whatever `evaluation.labels` says."""

    augment: DSAConfig = DSAConfig()
    """The augmentation that ARS switches on and off in that training; for digits leave out `flip`."""
    real: TrainConfig | None = None
    """Training on all real images; null: that of the sets."""
    w: float = Field(default=0.5, ge=0, le=1)
    """Weight of the improvement over random in LRS; the rest is the recovery of the real data."""
    gamma: float = Field(default=0.5, ge=0, le=1)
    """Weight of the augmented comparison in ARS."""


@dataclass(frozen=True)
class Ranking:
    """Scores of a method's sets."""

    lrs: float
    """Label-robust score, 0..1; higher is better."""
    ars: float
    """Augmentation-robust score, 0..1; higher is better."""
    hlr: float
    """Hard-label recovery: what is still missing to the real data, lower is better."""
    ior: float
    """Improvement over random, higher is better."""
    accuracies: dict[str, Score]
    """What they rest on, by `data training`: real, synthetic, random × given, plain, augmented."""

    def as_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        return asdict(self)


def hard_label_recovery(real: float, synthetic: float) -> float:
    """HLR = a_real − a_syn."""
    return real - synthetic


def improvement_over_random(synthetic: float, random: float) -> float:
    """IOR = a_syn − a_rdm."""
    return synthetic - random


def label_robust_score(hlr: float, ior: float, w: float = 0.5) -> float:
    """LRS = f(w IOR − (1 − w) HLR)."""
    return normalised(w * ior - (1 - w) * hlr)


def augmentation_robust_score(augmented: float, plain: float, gamma: float = 0.5) -> float:
    """ARS = f(γ IOR_aug + (1 − γ) IOR_plain), from the two improvements over random."""
    return normalised(gamma * augmented + (1 - gamma) * plain)


def normalised(value: float) -> float:
    """f(x) = (e^x − e^{−1}) / (e − e^{−1})."""
    return (math.exp(value) - math.exp(-1)) / (math.e - math.exp(-1))


def rank(
    synthetic: Sequence[Images],
    random: Sequence[Images],
    real: Images,
    test: Images,
    normalise: Normalise,
    config: RankingConfig,
    evaluation: EvaluationConfig,
    fresh: Callable[[torch.Generator], Network],
    streams: Streams,
    *,
    execution: Execution = AS_WRITTEN,
) -> Ranking:
    """Score sets beside `random` real ones of their size and all `real` images; LRS under `evaluation`'s training."""
    given = evaluation.train
    trainings = {"plain": given.model_copy(update={"augment": None, "cutmix": None})}
    trainings["augmented"] = given.model_copy(update={"augment": config.augment, "cutmix": None})
    like = next((name for name, training in trainings.items() if training == given), "given")
    trainings[like] = given

    def scored(sets: Sequence[Images], training: TrainConfig) -> Score:
        how = evaluation.model_copy(update={"train": training, "labels": "hard", "steps": "train"})
        return score(sets, test, normalise, how, fresh, streams, execution=execution)

    found = {"real given": scored([real], config.real or given)}
    for name, training in trainings.items():
        found[f"synthetic {name}"] = scored(synthetic, training)
        found[f"random {name}"] = scored(random, epochs_like(training, len(random[0]), len(synthetic[0])))
    gain = {
        name: improvement_over_random(found[f"synthetic {name}"].mean, found[f"random {name}"].mean)
        for name in trainings
    }
    hlr = hard_label_recovery(found["real given"].mean, found[f"synthetic {like}"].mean)
    return Ranking(
        lrs=label_robust_score(hlr, gain[like], config.w),
        ars=augmentation_robust_score(gain["augmented"], gain["plain"], config.gamma),
        hlr=hlr,
        ior=gain[like],
        accuracies=found,
    )
