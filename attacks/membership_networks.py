"""Networks that an adversary trains on what was released, and how sure they are of a record.

    φ_w(x) = z_y − log Σ_{j ≠ y} exp z_j          p_w(x) = 1/(1 + e^−φ)          ℓ_w(x) = log(1 + e^−φ)

    z   logits of network w for record x        y   its label        all in float64, from logits as the network puts out

The K networks start from the same weights and see their batches in the same order for every run of the audit, so that
what is left of a difference between two runs is the runs' own. Nothing here depends on which run is the target: all is
computed once per run, under a name that says everything it depends on.

Cost    K trainings per run; K passes of the records.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64
from pydantic import Field
from torch import Tensor

from fedsim.audit.types import Knowledge, Release, ThreatModel
from fedsim.audit.view import AdversaryView, Released
from fedsim.config import Section, digest
from fedsim.data.images import Images
from fedsim.data.synthetic import union
from fedsim.models.execution import Runner
from fedsim.models.functional import flatten, model_sha256, state, unflatten
from fedsim.models.network import Network
from fedsim.seeding import Streams
from fedsim.training.ensemble import fit_together
from fedsim.training.train import TrainConfig, fit
from fedsim.types import UserError

BATCH = 256
"""Records of one pass."""


class MembershipConfig(Section):
    """What every membership attack on a release is told."""

    name: Any
    """Name of the attack; each one narrows it to its own."""
    release: Literal["final_set", "client_sets", "server_model", "update"] = "client_sets"
    """What is attacked: the union of all clients' last sets, all sets of one client, the server's last model, or the
    weights that one client sent back in every round."""
    networks: int = Field(default=5, ge=1)
    """K: networks that the adversary trains on released sets; released models are used as they are."""
    train: TrainConfig | None = None
    """How it trains them; null: as the server does."""


_WHO: dict[Release, tuple[str, Literal["third_party", "server"]]] = {
    Release.FINAL_SET: ("set_reader", "third_party"),
    Release.CLIENT_SETS: ("curious_server", "server"),
    Release.SERVER_MODEL: ("model_user", "third_party"),
    Release.UPDATE: ("curious_server", "server"),
}


def threat_of(config: MembershipConfig, *knows: Knowledge) -> ThreatModel:
    """Who reads `config.release`: he knows network, settings and candidates, and what `knows` adds."""
    release = Release(config.release)
    name, position = _WHO[release]
    always = {Knowledge.ARCHITECTURE, Knowledge.HYPERPARAMETERS, Knowledge.CANDIDATES}
    return ThreatModel(
        name=name,
        position=position,
        behaviour="passive",
        sees=frozenset({release}),
        knows=frozenset(always | set(knows)),
    )


def check_release(release: str, run: Any) -> None:
    """Refuse, before it is made, a run whose clients do not send what is attacked."""
    sets = run.method is not None
    if sets and release == Release.UPDATE:
        raise UserError(
            f"release: got update for a run of {run.algorithm.name}, whose clients send sets; valid: client_sets, "
            "final_set, server_model"
        )
    if not sets and release in (Release.CLIENT_SETS, Release.FINAL_SET):
        raise UserError(
            f"release: got {release} for a run of {run.algorithm.name}, whose clients send weights; valid: update, "
            "server_model"
        )


MODELS = (Release.SERVER_MODEL, Release.UPDATE)
"""Releases that are models, for which nothing is trained."""


@dataclass(frozen=True)
class Reader:
    """What an adversary makes of one release after another."""

    view: AdversaryView
    config: MembershipConfig
    streams: Streams
    """The same for every target."""

    @classmethod
    def of(cls, view: AdversaryView, config: MembershipConfig, streams: Streams) -> Reader:
        """Draws come from the seed of `streams` alone: its path may name the target, and cached arrays must not."""
        return cls(view, config, Streams(streams.seed, ("membership",)))

    def cached(self, what: str, compute: Callable[[], np.ndarray], *depends: object) -> np.ndarray:
        """An array that is computed once, named after all it depends on: network, seed, `depends`."""
        key = hashlib.sha256(repr((self._public, *depends)).encode()).hexdigest()[:16]
        return self.view.cache(f"membership-{what}-{key}", compute)

    @cached_property
    def _public(self) -> tuple[object, ...]:
        """Seed, architecture and initialisation, and what is done to pixels."""
        normalise = self.view.public.normalise
        first = self.view.public.fresh(self.streams.generator("fingerprint"))
        whitening = None if normalise.zca is None else _hash(*normalise.zca.tensors().values())
        return self.streams.seed, model_sha256(state(first)), normalise.mean, normalise.std, whitening

    def images(self, released: Released) -> Images:
        """All synthetic images of the release that is attacked, on the device."""
        final = self.config.release == Release.FINAL_SET
        return union(released.final_set() if final else released.client_sets()).to(self.view.public.device)

    def confidences(self, released: Released, records: Images) -> Float64[np.ndarray, "networks n"]:
        """φ of `records` under each network of the release."""

        def compute() -> np.ndarray:
            return np.stack([self._confidence(network, records) for network in self._networks(released)])

        return self.cached("confidence", compute, *self._trained(released), fingerprint(records))

    def training_losses(self, released: Released) -> Float64[np.ndarray, "networks"]:
        """Mean cross-entropy of each network on the synthetic images it was trained on."""

        def compute() -> np.ndarray:
            images = self.images(released)
            return np.array([self._loss(network, images) for network in self._networks(released)])

        return self.cached("loss", compute, *self._trained(released))

    def _networks(self, released: Released) -> Iterator[Network]:
        public = self.view.public
        if self.config.release == Release.SERVER_MODEL:
            yield public.with_weights(released.server_model()).eval()
            return
        if self.config.release == Release.UPDATE:
            for weights in released.updates():
                yield public.with_weights(weights).eval()
            return
        like = state(public.fresh(torch.Generator()))
        for row in self.cached("networks", lambda: self._train(released), *self._trained(released)):
            vector = torch.from_numpy(np.array(row)).to(public.device)
            yield public.with_weights(unflatten(vector, like)).eval()

    def _trained(self, released: Released) -> tuple[object, ...]:
        """What trained networks depend on."""
        if self.config.release in MODELS:
            return released.key, self.config.release
        return released.key, self.config.release, self.config.networks, digest(self._settings())

    def _settings(self) -> TrainConfig:
        settings = self.config.train or self.view.public.train
        if settings is None:
            raise UserError(
                f"attack.{self.config.name}.train=null, but the server of this run trains on no synthetic set; valid: "
                "a training such as {epochs: 300}"
            )
        return settings

    def _train(self, released: Released) -> Float[np.ndarray, "networks p"]:
        """Weights of the K networks, as `flatten` gives them."""
        public, settings, images = self.view.public, self._settings(), self.images(released)
        heres = [self.streams.at("network", index) for index in range(self.config.networks)]
        networks = [public.fresh(here.generator("init")) for here in heres]
        rngs = [here.generator("train") for here in heres]
        if public.execution.ensemble == "vmap":
            fit_together(networks, images, public.normalise, settings, rngs, execution=public.execution)
        else:
            for network, rng in zip(networks, rngs, strict=True):
                fit(network, images, public.normalise, settings, rng, execution=public.execution)
        return torch.stack([flatten(state(network)) for network in networks]).cpu().numpy()

    def _confidence(self, network: Network, records: Images) -> Float64[np.ndarray, "n"]:
        return confidence(self._logits(network, records), records.labels.cpu()).numpy()

    def _loss(self, network: Network, images: Images) -> float:
        return float(F.cross_entropy(self._logits(network, images), images.targets.cpu()))

    @torch.no_grad()
    def _logits(self, network: Network, images: Images) -> Float64[Tensor, "n k"]:
        public, runner = self.view.public, Runner(network, self.view.public.execution)
        pieces = images.pixels.split(BATCH)
        return torch.cat([runner.logits(public.normalise(piece.to(public.device))).cpu() for piece in pieces]).double()


def confidence(logits: Float64[Tensor, "n k"], labels: Int64[Tensor, "n"]) -> Float64[Tensor, "n"]:
    """φ = z_y − logsumexp(z_{≠y}): the logit of the probability of the label."""
    own = labels[:, None]
    return logits.gather(1, own)[:, 0] - logits.scatter(1, own, -torch.inf).logsumexp(1)


def losses(phi: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """ℓ = log(1 + e^−φ), the cross-entropy."""
    return np.logaddexp(0.0, -phi)


def fingerprint(images: Images) -> str:
    """16 hex digits over pixels and labels."""
    return _hash(images.pixels, images.labels)


def _hash(*tensors: Tensor) -> str:
    content = hashlib.sha256()
    for tensor in tensors:
        content.update(str(tuple(tensor.shape)).encode())
        content.update(tensor.cpu().contiguous().numpy().tobytes())
    return content.hexdigest()[:16]
