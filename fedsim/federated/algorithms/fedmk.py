"""FedMK: clients condense from one another's sets; the server trains on what they send and on what a generator adds.

    Server executes:                                      ClientUpdate(k, w_r, S′):
      for each round r = 1 … R                              S_k ← images of S′, class by class, or noise
        C ← some clients, at random                         for t = 0 … T − 1
        for k in C                                            φ_i ← 1 / (1 + exp(−τ ℓ(w_r; x_i)))
          S′ ← S_{k′} of round r − 1, k′ ≠ k at random        w′ ← w_r − α ∇ L(w_r; S_k)
          S_k ← ClientUpdate(k, w_r, S′)                      S_k ← S_k − η ∇_S 1/n Σ_i φ_i ℓ(w′; x_i)
        G ← Adam on  λ ℓ(w_r; G(z, y), y) + D(P, U)
        P ← G(z, y),  y over the classes of U             U   the union of the uploads S_k
        w_{r+1} ← SGD on U ∪ P, from w_r                  P   pseudo samples of the generator G, z ~ N(0, I)

    D(P, U) = mean_c [ 2 E‖p − u‖ − E‖p − p′‖ − E‖u − u′‖ ] / √d     over images of class c, of d pixels

Source  Liu, Yu and Zhou, "Meta Knowledge Condensation for Federated Learning", ICLR 2023, arXiv 2209.14851, Algorithm
        1. Of its Equations 3, 6, 9 and 10 only the number and the purpose are known here.
Code    m13891290332/fedDM (a re-implementation) was read; it is no reference (see the condenser).
Differs condensation is any method of the catalog (`method`), by default `meta_knowledge` (lines 5 to 9); one whose
        images do not start as noise or real images takes no notice of S′. Line 7 is read so: one other client is drawn
        uniformly among those whose set of the round before arrived, and of its images those of the client's own
        classes are taken, at random; the rest is noise, as is all of round 1. Equation 9 is chosen: the energy
        distance D is 0 for equal distributions only, and its second term keeps pseudo samples apart, so that no other
        term for diversity is needed; λ asks that w_r, frozen, sees the class. G goes on from round to round, its Adam
        anew. Equation 10 is chosen: one cross-entropy over uploads and pseudo samples, which are stored in bytes like
        the others and weigh by their number. A set is seen by the clients that start from it, not by the server alone.
        Of the metrics `pseudo_right` is judged by w_r, from before the round, which in round 1 knows no class, and
        `pseudo_right_after` by w_{r+1}, which has been trained on P.
Reduces `conditional: false` and `generator: null` is FedDM with the same method, exactly.
Cost    as FedDM, and the generator's steps at the server; the downlink grows by one client's set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor

from fedsim.config import Section
from fedsim.data.images import Images, joined
from fedsim.data.synthetic import SyntheticSet, union
from fedsim.distill.base import Distiller, Task
from fedsim.distill.cost import Passes
from fedsim.federated.algorithms.feddm import FedDM, Sets
from fedsim.federated.base import Broadcast, ClientView, ServerState, Setting, Upload, network_with
from fedsim.models.functional import state as state_of
from fedsim.models.generator import Config as Architecture
from fedsim.models.generator import Generator, flops_per_sample
from fedsim.models.network import Network
from fedsim.seeding import Streams
from fedsim.training.train import TrainConfig, accuracy
from fedsim.types import Params, UserError


class GeneratorConfig(Architecture):
    """The generator, its training and its use; none of it is published."""

    steps: int = Field(default=300, ge=1)
    """Steps of Adam in a round."""
    lr: float = Field(default=2e-3, gt=0)
    """Step size of Adam."""
    batch: int = Field(default=128, ge=1)
    """Uploaded images of a step, and as many pseudo samples."""
    classification: float = Field(default=0.1, ge=0)
    """λ, weight of the classes that the server's model sees."""
    pseudo: int = Field(default=10, ge=1)
    """Pseudo samples of each uploaded class that the server trains on."""


class Config(Section):
    """Settings of FedMK beside those of `method` and `server`."""

    name: Literal["fedmk"] = "fedmk"
    conditional: bool = True
    """Clients start from another client's set of the round before; false: as `method.init` says."""
    generator: GeneratorConfig | None = GeneratorConfig()
    """The server's conditional generator; null: it trains on the uploads alone."""


def energy_distance(
    pseudo: Float[Tensor, "n d"], uploaded: Float[Tensor, "m d"], pseudo_of: Int64[Tensor, "n"], of: Int64[Tensor, "m"]
) -> Float[Tensor, ""]:
    """D, the mean over the classes of both; a class's p and p′ are different samples."""
    classes = torch.arange(int(max(pseudo_of.max(), of.max())) + 1, device=of.device)[:, None]
    made, given = (pseudo_of == classes).sum(1), (of == classes).sum(1)
    both = (made > 0) & (given > 0)
    different = ~torch.eye(len(pseudo), dtype=torch.bool, device=of.device)

    def mean(left: Tensor, right: Tensor, pairs: Tensor, count: Tensor, label: Tensor) -> Float[Tensor, ""]:
        share = torch.where(both, 1 / count.clamp(min=1).to(left.dtype), 0)[label][:, None]  # of a pair in its class
        return (torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist") * pairs * share).sum()

    cross = mean(pseudo, uploaded, pseudo_of[:, None] == of, made * given, pseudo_of)
    within = mean(pseudo, pseudo, (pseudo_of[:, None] == pseudo_of) & different, made * (made - 1), pseudo_of)
    target = mean(uploaded, uploaded, of[:, None] == of, given * given, of)
    return (2 * cross - within - target) / both.sum() / pseudo.shape[1] ** 0.5


def generator_loss(
    judge: Network, pseudo: Float[Tensor, "n c h w"], uploaded: Float[Tensor, "n c h w"], labels: Int64[Tensor, "n"],
    weight: float,
) -> Float[Tensor, ""]:  # fmt: skip
    """λ ℓ(w_r; P) + D(P, U), pseudo samples having the labels of the uploaded images."""
    seen = F.cross_entropy(judge(pseudo), labels)
    return weight * seen + energy_distance(pseudo.flatten(1), uploaded.flatten(1), labels, labels)


def train_generator(
    generator: Generator, judge: Network, uploaded: Float[Tensor, "m c h w"], labels: Int64[Tensor, "m"],
    config: GeneratorConfig, rng: torch.Generator,
) -> float:  # fmt: skip
    """Adam on the generator, in place; the judge stays as it is. Returns the last loss."""
    judge.requires_grad_(False).eval()
    optimiser = torch.optim.Adam(generator.parameters(), lr=config.lr)
    loss = torch.zeros(())
    for _ in range(config.steps):
        rows = torch.randperm(len(labels), generator=rng)[: config.batch].to(labels.device)
        loss = generator_loss(
            judge, generator.sample(labels[rows], rng), uploaded[rows], labels[rows], config.classification
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return float(loss.detach())


class FedMK(FedDM):
    """Both halves of FedMK: FedDM's, with a start for the clients and a generator for the server."""

    Config = Config
    method_defaults: ClassVar[Mapping[str, Any] | None] = {"name": "meta_knowledge"}
    server_defaults: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, config: Config, method: Distiller, method_config: Any, server: TrainConfig) -> None:
        if getattr(getattr(method_config, "networks", None), "shared", False):
            raise UserError("method.networks.shared: clients of fedmk start from different sets; leave it out")
        super().__init__(config, method, method_config, server)
        self.settings = config

    def init(self, setting: Setting) -> ServerState:
        """w_1, the run's seed for what `broadcast` draws, and no sets yet."""
        return replace(super().init(setting), memory={"seed": torch.tensor(setting.streams.seed)})

    def broadcast(self, state: ServerState, clients: Sequence[int]) -> Mapping[int, Broadcast]:
        """w_r to everyone, and to each client another's set of the round before; clients of one k′ share an object."""
        draws = Streams(int(state.memory["seed"])).at("round", state.round + 1, "sharing")
        owners = state.memory["sets.client"].unique().tolist() if "sets.client" in state.memory else []
        messages: dict[int | None, Broadcast] = {None: Broadcast(state.round + 1, state.weights)}
        found = {}
        for client in clients:
            other = drawn([owner for owner in owners if owner != client], draws.generator(client))
            if other not in messages:
                own = state.memory["sets.client"] == other
                shared = {name: state.memory[f"sets.{name}"][own] for name in ("images", "labels")}
                messages[other] = Broadcast(state.round + 1, state.weights, shared)
            found[client] = messages[other]
        return found

    def server(
        self, setting: Setting, state: ServerState, uploads: Sequence[Upload], streams: Streams
    ) -> tuple[ServerState, dict[str, float]]:
        """G, P and w_{r+1}; the memory holds the uploaded sets and the generator."""
        images, memory, metrics = union(Sets(uploads)), {"seed": state.memory["seed"]}, {}
        together, pseudo = images, None
        if self.settings.generator is not None:
            pseudo, own, metrics = self._pseudo(setting, state, images, streams)
            together, memory = joined(images, pseudo, len(setting.classes)), memory | own
        if self.settings.conditional:
            memory |= sets_of(uploads)
        after, found = self.train_on(setting, state, together, streams)
        if pseudo is not None:
            metrics["pseudo_right_after"] = accuracy(network_with(setting, after.weights), pseudo, setting.normalise)
        counted = {"synthetic_images": len(images) / self.formation**2}
        return replace(after, memory=memory), found | counted | metrics

    def passes(self, counts: Sequence[Tensor]) -> tuple[Passes, Passes]:
        """FedDM's, the server's epochs over pseudo samples, and its model's passes while the generator learns."""
        clients, server = super().passes(counts)
        config = self.settings.generator
        if config is None:
            return clients, server
        made, classes = self._made(counts)
        judged = Passes(pixels=config.steps * min(config.batch, made))
        return clients, server + judged + Passes(training=self.train.epochs * config.pseudo * classes)

    def other_networks(self, image_shape: tuple[int, int, int], counts: Sequence[Tensor]) -> float:
        """Operations of a round in the generator: a training step costs three forward passes, a pseudo sample one."""
        config = self.settings.generator
        if config is None or not counts:
            return 0.0
        made, held = self._made(counts)
        samples = 3 * config.steps * min(config.batch, made) + config.pseudo * held
        return samples * flops_per_sample(config, image_shape, len(counts[0]))

    def _made(self, counts: Sequence[Tensor]) -> tuple[int, int]:
        """Uploaded images, and their classes."""
        images = sum(int(one.clamp(max=self.method_config.ipc).sum()) for one in counts) * self.formation**2
        return images, int((torch.stack(list(counts)).sum(0) > 0).sum()) if counts else 0

    def _tasks(self, views: Sequence[ClientView], broadcast: Broadcast) -> list[Task]:
        """FedDM's, with the set to start from."""
        extra, setting = broadcast.extra, views[0].setting
        known = (setting.classes, setting.normalise.mean, setting.normalise.std)
        given = SyntheticSet(extra["images"], extra["labels"], *known) if extra else None
        return [replace(task, given=given) for task in super()._tasks(views, broadcast)]

    def _pseudo(
        self, setting: Setting, state: ServerState, images: Images, streams: Streams
    ) -> tuple[Images, Params, dict[str, float]]:
        """Pseudo samples of the trained generator, its weights, and the share that w_r puts into their class."""
        config, rng, normalise = self.settings.generator, streams.generator("generator"), setting.normalise
        assert config is not None
        generator = Generator.build(
            config, setting.image_shape, len(setting.classes), normalise.mean, normalise.std, rng, setting.device
        )
        if state.round:
            generator.load_state_dict(_below(state.memory, "generator"))
        judge, there = network_with(setting, state.weights), images.to(setting.device)
        loss = train_generator(generator, judge, normalise(there.pixels), there.labels, config, rng)
        labels = there.labels.unique().repeat_interleave(config.pseudo)
        with torch.no_grad():
            made = normalise.quantise(generator.sample(labels, rng))
            right = (judge(normalise(made)).argmax(1) == labels).double().mean()
        own = {f"generator.{name}": value.cpu() for name, value in state_of(generator).items()}
        metrics = {"generator_loss": loss, "pseudo_images": float(len(labels)), "pseudo_right": float(right)}
        return Images(made, labels).to(images.pixels.device), own, metrics


def drawn(others: Sequence[int], rng: torch.Generator) -> int | None:
    """One of them, uniformly; None if there is none."""
    return others[int(torch.randint(len(others), (), generator=rng))] if others else None


def sets_of(uploads: Sequence[Upload]) -> Params:
    """The uploaded sets, one after another, with the client of each image."""
    sets = [one.synthetic for one in uploads if one.synthetic is not None]
    owners = torch.tensor([one.client for one in uploads]).repeat_interleave(torch.tensor([len(one) for one in sets]))
    images, labels = torch.cat([one.images for one in sets]), torch.cat([one.labels for one in sets])
    return {"sets.images": images, "sets.labels": labels, "sets.client": owners}


def _below(memory: Params, prefix: str) -> Params:
    return {name.removeprefix(f"{prefix}."): value for name, value in memory.items() if name.startswith(f"{prefix}.")}
