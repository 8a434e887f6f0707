"""What is refused before any work, because the parts of a config do not go together."""

from __future__ import annotations

from typing import Any, cast

from fedsim import catalog
from fedsim.build import Parts
from fedsim.distill import private
from fedsim.distill.pool import radius_of
from fedsim.federated.attackers import Scene, check_attackers
from fedsim.federated.defences import check_aggregation, check_defences
from fedsim.federated.faults import check_faults
from fedsim.federated.upload_rows import with_gradient
from fedsim.models.functional import has_batch_norm
from fedsim.schema import Distillation, FederatedRun
from fedsim.types import UserError


def check(parts: Parts) -> None:
    """Everything that can be refused before any work: data, partition, architecture, faults that name a client."""
    parts.fresh()(parts.streams.generator("template"))
    if isinstance(parts.config, Distillation) and parts.config.evaluation.model is not None:
        parts.fresh(parts.config.evaluation.model)(parts.streams.generator("template"))
    for model in getattr(parts.config, "architectures", ()):
        parts.fresh(model)(parts.streams.generator("template"))
    parts.split  # noqa: B018 - drawn now, so that an impossible partition is refused now
    if not isinstance(parts.config, FederatedRun):
        return
    if parts.config.privacy is not None:
        private.check_data(parts.dataset.found)
    config, clients = parts.config, len(parts.split.client)
    watched = config.engine.name != "local" or config.compute.workers > 0
    check_faults(config.faults, clients, config.rounds, watched=watched)
    _check_attackers(parts, config)
    check_defences(parts.defences, sets=config.method is not None)
    _check_algorithm(parts, config)
    parts.roll.check(config.participation, config.rounds, parts.streams)


def _check_attackers(parts: Parts, config: FederatedRun) -> None:
    """Refuse attackers that could not act, and test images that could show nothing."""
    _check_adaptive(config)
    check_attackers(config.attackers, len(parts.split.client), config.rounds, parts.dataset.num_classes)
    for chosen in cast(Any, config.attackers):
        labels = {client: parts.images(parts.split.client[client]).labels for client in chosen.clients}
        if empty := [client for client, held in labels.items() if not len(held)]:
            raise UserError(f"attackers: client {empty[0]} holds no image; valid: clients that hold some")
        if bool((parts.dataset.test.labels == chosen.target).all()):
            raise UserError(f"attackers: every test image is of class {chosen.target}; choose another target")
        scene = Scene(parts.dataset.image_shape, config.method, labels)
        catalog.resolve("attacker", chosen.name)(chosen).check(scene)


def _check_adaptive(config: FederatedRun) -> None:
    """Refuse an attacker that knows a defence which is not there; the attack itself refuses those it can not evade."""
    for place, chosen in enumerate(cast(Any, config.attackers)):
        known = getattr(chosen, "adaptive_to", None)
        if known is None or ":" in known or known in catalog.names("defense"):
            continue
        valid = with_gradient()
        raise UserError(
            f"attackers.{place}.adaptive_to: unknown defense '{known}'{catalog.suggest(known, valid)}; "
            f"valid: {', '.join(valid)}, whose score has a gradient"
        )


def _check_algorithm(parts: Parts, config: FederatedRun) -> None:
    """Refuse what the algorithm cannot do."""
    networks = getattr(config.method, "networks", None)
    algorithm = parts.algorithm()
    if algorithm.rounds is not None and config.rounds > algorithm.rounds:
        raise UserError(f"rounds: got {config.rounds}; {config.algorithm.name} has {algorithm.rounds} by definition")
    around = radius_of(networks) is not None or getattr(networks, "around", None) == "server"
    if not algorithm.sends_weights and around:
        raise UserError(
            f"method.networks: draws around the server's weights, which {config.algorithm.name} does not send; "
            "valid here: fresh, or pool or early with around: fresh"
        )
    asked = len(parts.roll.chosen(config.participation.fraction, 1, parts.streams))
    check_aggregation(parts.defences, algorithm, parts.fresh()(parts.streams.generator("template")), asked)
    together = getattr(networks, "shared", False) and config.participation.per_node > 1
    if together and has_batch_norm(parts.fresh()(parts.streams.generator("template"))):
        raise UserError(
            "method.networks.shared: clients of one node are condensed together and would see one another through "
            "batch norm; choose another model.norm, or participation.per_node=1"
        )
