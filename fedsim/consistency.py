"""What every section of a config allows and the whole does not: each refusal says what came and what is valid."""

from __future__ import annotations

from typing import Any

from fedsim.distill import private
from fedsim.distill.soft_labels import learns_labels
from fedsim.federated.budgets import check_budgets
from fedsim.federated.wire import check_wire
from fedsim.privacy.ledger import check_delta
from fedsim.types import UserError


def check_federated(config: Any) -> None:
    """A run of a federation (`schema.FederatedRun`)."""
    if config.data.val == 0:
        raise UserError("data.val: got 0; the server scores every round on val, give more than 0 and at most 0.5")
    if config.data.zca is not None:
        raise UserError(
            "data.zca: whitening is fitted to all training images, which no party of a federation holds, and would be "
            "a release of its own; leave it out"
        )
    check_wire(config.wire, config.algorithm.name, config.method)
    check_budgets(config.budgets, config.algorithm, config.method)
    _check_adversaries(config)
    if config.audit.planted is not None:
        _check_planted(config)
    if config.privacy is not None:
        _check_private(config)
    elif config.controls.noisy_class_means:
        raise UserError("controls.noisy_class_means: got true; it is scored at the epsilon of a private run; valid "
                        "without privacy: false, null")  # fmt: skip


def _check_adversaries(config: Any) -> None:
    """Refuse attackers and defences of which nothing could be measured, or whose numbers would be another thing's."""
    names = [one.name for one in config.defenses]
    if twice := sorted(name for name in set(names) if names.count(name) > 1):
        raise UserError(f"defenses: {twice[0]} is there {names.count(twice[0])} times; valid: each once")
    if not config.attackers:
        return
    if config.audit.planted is not None:
        raise UserError("attackers: got some beside audit.planted, whose records are read past what an attacker does "
                        "to a client's images; valid: one of the two")  # fmt: skip
    if config.transcript == "none":
        raise UserError("transcript: got none, which drops the clients' folders and the attackers' triggers; valid "
                        "with attackers: uploads, all")  # fmt: skip
    if config.privacy is not None and (other := [one.name for one in config.attackers if not _keeps_to_protocol(one)]):
        raise UserError(f"attackers: got {other[0]} under privacy, whose clients give out noisy sums alone; valid: "
                        "naive, which keeps to the protocol")  # fmt: skip
    _check_scale(config)


def _check_scale(config: Any) -> None:
    """Refuse model replacement by the number of clients where that is not what is averaged, or the sum overshoots."""
    replacing = [one for one in config.attackers if one.name == "model_replacement"]
    if not any(one.scale is None and one.poison for one in replacing):
        return
    part = config.participation
    if part.fraction < 1 or part.trace is not None:
        some = f"fraction {part.fraction:g}" if part.trace is None else f"trace {part.trace.name}"
        raise UserError(f"attackers: model_replacement got scale null, all clients over its own, under participation."
                        f"{some}, where a round asks fewer; give scale")  # fmt: skip
    if len(replacing) > 1:
        raise UserError(f"attackers: got {len(replacing)} entries of model_replacement, one with scale null, which "
                        "counts its own clients alone; give each a scale, or one entry all clients")  # fmt: skip


def _keeps_to_protocol(attacker: Any) -> bool:
    return attacker.name == "naive" and attacker.adaptive_to is None


def check_central(config: Any) -> None:
    """A central condensation (`schema.Distillation`)."""
    if config.audit.planted is not None:
        raise UserError("audit.planted: records are planted among those of clients, which a central run does not have; "
                        "leave it out, or use fedsim run")  # fmt: skip
    method, networks = config.method, getattr(config.method, "networks", None)
    if late := [at for at in config.curve if at > method.iterations]:
        raise UserError(
            f"curve: {late[0]} is after the last iteration; valid: 0 to method.iterations ({method.iterations})"
        )
    if config.evaluation.labels == "soft" and not learns_labels(method):
        raise UserError(
            "evaluation.labels: soft takes the labels stored in a set, and this method makes none; "
            "give hard or teacher, or method.labels: learned (dc, dsa, idc, model_augmentation)"
        )
    if config.evaluation.steps == "learned" and not getattr(method, "learns_rates", False):
        raise UserError("evaluation.steps: learned trains by the steps stored in a set, and this method learns none; "
                        "give train, or method dd")  # fmt: skip
    if config.data.zca is not None and (formation := getattr(method, "formation", 1)) > 1:
        raise UserError(
            f"method.formation={formation}: parts of a stored image are cut from plain pixels and cannot be whitened; "
            "give formation=1, or no data.zca"
        )
    if getattr(networks, "around", None) == "server" or getattr(networks, "name", None) == "perturb":
        raise UserError(
            "method.networks: draws around the server's weights, which a central run does not have; "
            "valid here: fresh, or pool with around: fresh"
        )
    if getattr(networks, "shared", False):
        raise UserError("method.networks.shared: a central run has one owner and nobody to share with; leave it out")


def _check_planted(config: Any) -> None:
    """Refuse records that nothing could be told of."""
    if config.engine.name != "local":
        raise UserError(f"engine.name={config.engine.name}: planted records are for an audit on one machine, which "
                        "watches every client; valid with audit.planted: local")  # fmt: skip
    agreed: Any = config.privacy
    if agreed is None:
        if config.audit.planted.crafted:
            raise UserError("audit.planted.crafted: crafted records are vectors that noisy sums alone see; valid "
                            "without privacy: 0; plant mislabelled, natural or ood_noise ones")  # fmt: skip
    elif agreed.name != "features" or agreed.rate < 1:
        raise UserError(
            f"audit.planted: got privacy {agreed.name} with rate {agreed.rate:g}; planted records are decoded from "
            "class sums of all records; valid: features with rate 1, or no privacy"
        )


def _check_private(config: Any) -> None:
    """Refuse what would release more than is accounted for."""
    if config.budgets.name != "uniform":
        raise UserError(f"budgets: got {config.budgets.name}; under privacy every client does the same: leave it out")
    if least := getattr(config.partition, "min_class", 0):
        raise UserError(f"partition.min_class: got {least}; it withholds a client's records of a class by their exact "
                        "number, and one record more would release all; valid under privacy: 0")  # fmt: skip
    agreed: Any = config.privacy
    norm = getattr(config.model, "norm", None)
    private.check(agreed, config.algorithm.name, config.method, norm, config.rounds)
    check_delta(agreed.delta, agreed.public_bound)
    local, unset = getattr(config.algorithm, "local", None), type(config.algorithm)()
    if local is not None and local.batch_size not in (unset.local.batch_size, type(local)().batch_size):
        raise UserError(f"algorithm.local.batch_size: got {local.batch_size}; under privacy its rate draws batches: "
                        "leave it out")  # fmt: skip
    if config.controls.upload_real_subset:
        raise UserError("controls.upload_real_subset: got true; it releases real images; valid under privacy: false")
    if config.compute.precision not in ("auto", "float32"):
        raise UserError(f"compute.precision: got {config.compute.precision}; its rounding of a record depends on who "
                        "shares its pass; valid under privacy: float32, auto")  # fmt: skip
    if config.controls.centralised is not None and agreed.noise != "seeded":
        raise UserError("controls.centralised: got a training; it learns from all private records without noise and "
                        "publishes its accuracy, which no ledger pays for; valid under noise=system: null; or give "
                        "noise=seeded")  # fmt: skip
    if config.controls.noisy_class_means and agreed.noise != "seeded":
        raise UserError("controls.noisy_class_means: got true; it is one more release of the same records, which no "
                        "ledger pays for; valid under noise=system: false, null; or give noise=seeded")  # fmt: skip
    if config.controls.noisy_class_means and config.server is None:
        raise UserError("controls.noisy_class_means: got true; the server of this algorithm trains on no images; "
                        "valid: false, null")  # fmt: skip
    if config.transcript == "none":
        raise UserError("transcript: got none, which drops the clients' folders and their ledgers; valid under "
                        "privacy: uploads, all")  # fmt: skip
