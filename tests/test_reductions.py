"""What every method becomes in a limit: one table, method → limit → equality.

A row gives two ways to the same tensor, which tests/reductions spells out; `within` is the largest difference of an
entry. Every method adds its row.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest
from torch import Tensor

from fedsim import catalog
from fedsim.data.augment import Config as DSAConfig
from fedsim.distill.coresets.forgetting import Config as ForgettingConfig
from fedsim.distill.coresets.forgetting import Forgetting
from fedsim.distill.coresets.herding import Config as HerdingConfig
from fedsim.distill.coresets.herding import Herding
from fedsim.distill.coresets.k_center import Config as KCenterConfig
from fedsim.distill.coresets.k_center import KCenter
from fedsim.distill.coresets.k_means import Config as KMeansConfig
from fedsim.distill.coresets.k_means import KMeans
from fedsim.distill.coresets.random import Config as RandomConfig
from fedsim.distill.coresets.random import RandomSubset
from fedsim.distill.distribution.class_means import ClassMeans
from fedsim.distill.distribution.class_means import Config as ClassMeansConfig
from fedsim.federated.algorithms.fedopt import FedAdam, FedYogi
from fedsim.models.execution import Execution
from fedsim.models.functional import flatten, state
from tests.reductions.baselines import (
    ONE_BATCH,
    adaptive_with_a_large_tau,
    fedavg_of_three,
    fedavgm_without_momentum,
    fednova_of_equal_steps,
    fedprox_without_a_term,
    gradient_descent,
    scaffold_of_one_step,
)
from tests.reductions.coresets import of_a_whole_class, one_of_each_class, the_whole_class
from tests.reductions.distribution import (
    NO_EFFECT,
    average_images,
    cafe_of_one_layer,
    datadam_without_attention,
    distance_of_the_means,
    dm_under_the_identity,
    ncfm_at_low_frequencies,
    ncfm_images,
    perturbed,
    pixels,
    pool_of_one_network,
    that_network_fresh,
)
from tests.reductions.federation import (
    central_condensation_around_w0,
    central_sgd,
    fedavg,
    feddm_of_everything_at_random,
    feddm_with_fresh_networks,
    federated_condensation,
    fedmk_without_sharing_and_generator,
    one_shot,
    sgd_on_that_clients_images,
    two_rounds_of_feddm,
)
from tests.reductions.gradient import (
    TOLD,
    climbing_the_inner_product,
    dc_images,
    dsa_images,
    idc_from_that_network,
    idc_images,
    meta_knowledge,
    on_one_early_network,
    one_tiny_inner_step,
    unrolled,
    where_images_start,
)
from tests.reductions.privacy import dm_of_new_networks_and_all_images, private_per_step_without_noise
from tests.reductions.training import LOCAL, fitted
from tests.reference import datadam as slow_datadam
from tests.reference import dm as problem


class Reduction(NamedTuple):
    method: str
    limit: str
    left: Callable[[], Tensor]
    right: Callable[[], Tensor]
    within: float


TABLE = [
    Reduction("dm", "identity embedding, no augmentation → class means", dm_under_the_identity, average_images, 0.51),
    Reduction(
        "dm", "augmentation without effect → none",
        lambda: pixels(problem.task(), augment=NO_EFFECT), lambda: pixels(problem.task()), 1e-5,
    ),
    Reduction(
        "dm", "private, per step, C → ∞, σ → 0 → dm with fresh networks and all images",
        private_per_step_without_noise, dm_of_new_networks_and_all_images, 1.01,
    ),
    Reduction("dm", "pool of one → that network", pool_of_one_network, that_network_fresh, 1e-6),
    Reduction(
        "dm", "batch of a whole class → all of it",
        lambda: pixels(problem.task(), batch_real=5), lambda: pixels(problem.task()), 1e-6,
    ),
    Reduction(
        "datadam", "no attention → dm", lambda: datadam_without_attention(lr=0.3),
        lambda: pixels(problem.task(slow_datadam.deep_net()), augment=DSAConfig()), 0,
    ),
    Reduction(
        "datadam", "no attention, weight 4 → dm with four times the step",
        lambda: datadam_without_attention(4.0, lr=0.1),
        lambda: pixels(problem.task(slow_datadam.deep_net()), augment=DSAConfig(), lr=0.4), 1e-6,
    ),
    Reduction(
        "cafe", "one layer, no discrimination, a new network every step → dm", cafe_of_one_layer,
        lambda: pixels(problem.task(slow_datadam.deep_net(depth=1)), augment=DSAConfig(), batch_real=2), 0,
    ),
    Reduction("ncfm", "low frequencies → means", ncfm_at_low_frequencies, distance_of_the_means, 1e-5),
    Reduction(
        "ncfm", "a sampler that does not learn → normal frequencies",
        lambda: ncfm_images(frequencies_from="learned", sampler_lr=0), ncfm_images, 0,
    ),
    Reduction(
        "dc", "T = 1 → the network is never trained",
        lambda: dc_images(outer=1, inner=9), lambda: dc_images(outer=1, inner=0), 0,
    ),
    Reduction(
        "dc", "no step of the network → new ones only",
        lambda: dc_images(outer=2, lr_net=1e-30), lambda: dc_images(outer=2, inner=0), 1e-6,
    ),
    Reduction("dsa", "augmentation without effect → dc", dsa_images, dc_images, 0),
    Reduction("idc", "f = 1, cosine, plain training on S → dc", idc_images, dc_images, 0),
    Reduction("dsa", "the same with learned labels → dc", partial(dsa_images, **TOLD), partial(dc_images, **TOLD), 0),
    Reduction("idc", "the same with learned labels → dc", partial(idc_images, **TOLD), partial(dc_images, **TOLD), 0),
    Reduction(
        "model_augmentation", "one early network, not perturbed → idc from it",
        on_one_early_network, idc_from_that_network, 1e-6,
    ),
    Reduction(
        "meta_knowledge", "τ = 0 → equal weights at half the step",
        lambda: meta_knowledge(tau=0.0), lambda: meta_knowledge(weights="equal", lr=0.15), 1e-6,
    ),
    Reduction("meta_knowledge", "K = 0 → S stays", lambda: meta_knowledge(inner_steps=0), where_images_start, 0),
    Reduction(
        "meta_knowledge", "α → 0 → gradients matched by inner product",
        one_tiny_inner_step, climbing_the_inner_product, 5e-5,
    ),
    Reduction(
        "dd", "one part, fixed rates → meta_knowledge with equal weights",
        unrolled, lambda: meta_knowledge(weights="equal", inner_steps=3), 1e-6,
    ),
    Reduction(
        "dd", "the same from a new network every step",
        lambda: unrolled(networks="fresh"),
        lambda: meta_knowledge(weights="equal", inner_steps=3, networks="fresh"), 1e-6,
    ),
    Reduction("dd", "η → 0 → S stays", lambda: unrolled(rate=1e-12), where_images_start, 1e-9),
    Reduction("perturb", "ρ → 0 is w_r", lambda: perturbed(1e-12), lambda: flatten(state(problem.convnet())), 1e-11),
    Reduction(
        "random", "ipc ≥ n_c → the class",
        lambda: of_a_whole_class(RandomSubset(RandomConfig(ipc=6))), the_whole_class, 0,
    ),
    Reduction(
        "herding", "ipc ≥ n_c → the class",
        lambda: of_a_whole_class(Herding(HerdingConfig(ipc=6, features="pixels"))), the_whole_class, 0,
    ),
    Reduction(
        "k_center", "ipc ≥ n_c → the class",
        lambda: of_a_whole_class(KCenter(KCenterConfig(ipc=6, features="pixels"))), the_whole_class, 0,
    ),
    Reduction(
        "k_center", "ipc = 1 → herding",
        lambda: one_of_each_class(KCenter(KCenterConfig(ipc=1, features="pixels"))),
        lambda: one_of_each_class(Herding(HerdingConfig(ipc=1, features="pixels"))), 0,
    ),
    Reduction(
        "k_means", "ipc ≥ n_c → the class",
        lambda: of_a_whole_class(KMeans(KMeansConfig(ipc=6, features="pixels", keep="centre"))), the_whole_class, 0,
    ),
    Reduction(
        "k_means", "centres of one cluster → class means",
        lambda: one_of_each_class(KMeans(KMeansConfig(ipc=1, features="pixels", keep="centre"))), average_images,
        0.51,
    ),
    Reduction(
        "class_means", "no privacy → class means",
        lambda: one_of_each_class(ClassMeans(ClassMeansConfig())), average_images, 0.51,
    ),
    Reduction(
        "forgetting", "ipc ≥ n_c → the class",
        lambda: of_a_whole_class(Forgetting(ForgettingConfig(ipc=6, train=LOCAL))), the_whole_class, 0,
    ),
    Reduction("feddm", "one client → dm around w_0", federated_condensation, central_condensation_around_w0, 0),
    Reduction(
        "feddm", "method random, ipc ≥ n_c, one client → SGD on its images",
        feddm_of_everything_at_random, sgd_on_that_clients_images, 1e-6,
    ),
    Reduction(
        "fedmk", "no sharing, no generator → feddm", fedmk_without_sharing_and_generator, two_rounds_of_feddm, 0,
    ),
    Reduction("one_shot", "is FedDM's first round with fresh networks", one_shot, feddm_with_fresh_networks, 0),
    Reduction("fedavg", "one client → SGD", lambda: fedavg([0]), central_sgd, 1e-6),
    Reduction(
        "fedavg", "all weight on one client → that client",
        lambda: fedavg([0, 1], [10**9, 1]), central_sgd, 1e-6,
    ),
    Reduction("fedavg", "identical clients → one of them", lambda: fedavg([0, 0, 0]), central_sgd, 1e-6),
    Reduction("fedprox", "μ = 0 → fedavg", fedprox_without_a_term, fedavg_of_three, 0),
    Reduction(
        "scaffold", "one step of all images, everyone, option I → gradient descent",
        lambda: scaffold_of_one_step("I"), gradient_descent, 1e-6,
    ),
    Reduction(
        "scaffold", "one step of all images, everyone, option II → gradient descent",
        lambda: scaffold_of_one_step("II"), gradient_descent, 1e-6,
    ),
    Reduction(
        "fednova", "as many steps at every client → fedavg", fednova_of_equal_steps,
        lambda: fedavg_of_three(ONE_BATCH), 1e-6,
    ),
    Reduction("fedavgm", "no momentum, η = 1 → fedavg", fedavgm_without_momentum, fedavg_of_three, 0),
    Reduction(
        "fedadam", "no memory, η = τ → ∞ → fedavg", lambda: adaptive_with_a_large_tau(FedAdam), fedavg_of_three, 1e-6
    ),
    Reduction(
        "fedyogi", "no memory, η = τ → ∞ → fedavg", lambda: adaptive_with_a_large_tau(FedYogi), fedavg_of_three, 1e-6
    ),
    Reduction("training", "chunk of a batch → whole batches", lambda: fitted(execution=Execution(4)), fitted, 0),
]  # fmt: skip


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.method}: {row.limit}")
def test_reduces(row: Reduction) -> None:
    left, right = row.left(), row.right()
    assert left.shape == right.shape
    assert float((left.double() - right.double()).abs().max()) <= row.within


def test_every_method_and_algorithm_of_the_catalog_has_a_row() -> None:
    assert {*catalog.names("method"), *catalog.names("algorithm")} <= {row.method for row in TABLE}
