"""Every choice of the project on one page: section → name → where it lives.

A place is `module:attribute`; the attribute carries its settings as `.Config`. It is imported only when chosen,
in whichever process needs it. A user's own part is named by its place: `method: {name: "my_package.mine:Mine"}`.
"""

from __future__ import annotations

import importlib
from difflib import get_close_matches
from typing import Any

from fedsim.types import UserError

CATALOG: dict[str, dict[str, str]] = {
    "data": {
        "digits": "fedsim.data.digits:Digits",
        "mnist": "fedsim.data.sources:MNIST",
        "fashion_mnist": "fedsim.data.sources:FashionMNIST",
        "cifar10": "fedsim.data.sources:CIFAR10",
        "cifar100": "fedsim.data.sources:CIFAR100",
        "svhn": "fedsim.data.sources:SVHN",
        "npz": "fedsim.data.own:Npz",
        "image_folder": "fedsim.data.own:ImageFolder",
    },
    "partition": {
        "iid": "fedsim.data.partition:IID",
        "dirichlet": "fedsim.data.partition:Dirichlet",
        "classes_per_client": "fedsim.data.partition:ClassesPerClient",
        "quantity": "fedsim.data.partition:Quantity",
    },
    "model": {
        "convnet": "fedsim.models.convnet:ConvNet",
        "lenet": "fedsim.models.lenet:LeNet",
        "lenet_dlg": "fedsim.models.lenet:LeNetDLG",
        "mlp": "fedsim.models.mlp:MLP",
        "alexnet": "fedsim.models.alexnet:AlexNet",
        "vgg11": "fedsim.models.vgg:VGG11",
        "resnet18": "fedsim.models.resnet:ResNet18",
        "vit": "fedsim.models.vit:ViT",
        "convnet_hidden": "fedsim.models.hidden_convnet:HiddenConvNet",
    },
    "method": {
        "dm": "fedsim.distill.distribution.dm:DistributionMatching",
        "dc": "fedsim.distill.gradient.dc:GradientMatching",
        "dsa": "fedsim.distill.gradient.dsa:SiameseMatching",
        "cafe": "fedsim.distill.distribution.cafe:CAFE",
        "datadam": "fedsim.distill.distribution.datadam:DataDAM",
        "idc": "fedsim.distill.gradient.idc:EfficientParameterization",
        "model_augmentation": "fedsim.distill.gradient.model_augmentation:ModelAugmentation",
        "meta_knowledge": "fedsim.distill.gradient.meta_knowledge:MetaKnowledge",
        "dd": "fedsim.distill.unrolled.dd:DatasetDistillation",
        "class_means": "fedsim.distill.distribution.class_means:ClassMeans",
        "ncfm": "fedsim.distill.distribution.ncfm:NCFM",
        "random": "fedsim.distill.coresets.random:RandomSubset",
        "herding": "fedsim.distill.coresets.herding:Herding",
        "k_center": "fedsim.distill.coresets.k_center:KCenter",
        "forgetting": "fedsim.distill.coresets.forgetting:Forgetting",
        "k_means": "fedsim.distill.coresets.k_means:KMeans",
    },
    "networks": {
        "fresh": "fedsim.distill.networks:Fresh",
        "perturb": "fedsim.distill.networks:Perturb",
        "pool": "fedsim.distill.pool:Pool",
        "early": "fedsim.distill.gradient.model_augmentation:EarlyStage",
    },
    "algorithm": {
        "feddm": "fedsim.federated.algorithms.feddm:FedDM",
        "fedmk": "fedsim.federated.algorithms.fedmk:FedMK",
        "one_shot": "fedsim.federated.algorithms.one_shot:OneShot",
        "fedavg": "fedsim.federated.algorithms.fedavg:FedAvg",
        "fedprox": "fedsim.federated.algorithms.fedprox:FedProx",
        "scaffold": "fedsim.federated.algorithms.scaffold:Scaffold",
        "fednova": "fedsim.federated.algorithms.fednova:FedNova",
        "fedavgm": "fedsim.federated.algorithms.fedopt:FedAvgM",
        "fedadam": "fedsim.federated.algorithms.fedopt:FedAdam",
        "fedyogi": "fedsim.federated.algorithms.fedopt:FedYogi",
    },
    "privacy": {
        "features": "fedsim.privacy.features:Features",
        "gradients": "fedsim.privacy.gradients:Gradients",
        "dp_sgd": "fedsim.privacy.dp_sgd:DPSGD",
    },
    "trace": {
        "bernoulli": "fedsim.federated.traces:Bernoulli",
        "cyclic": "fedsim.federated.traces:Cyclic",
        "file": "fedsim.federated.traces:File",
    },
    "budgets": {
        "uniform": "fedsim.federated.budgets:Uniform",
        "groups": "fedsim.federated.budgets:Groups",
    },
    "engine": {
        "local": "fedsim.federated.engines.local:Local",
        "ray": "fedsim.federated.engines.ray:Ray",
        "superlink": "fedsim.federated.engines.superlink:SuperLink",
    },
    "attacker": {
        "naive": "attacks.naive:Naive",
        "doorping": "attacks.doorping:Doorping",
        "dm_trigger": "attacks.dm_trigger:DMTrigger",
        "direct": "attacks.direct:Direct",
        "model_replacement": "attacks.model_replacement:ModelReplacement",
    },
    "defense": {
        "upload_checks": "defenses.upload_checks:UploadChecks",
        "spectral_signatures": "defenses.spectral_signatures:SpectralSignatures",
        "activation_clustering": "defenses.activation_clustering:ActivationClustering",
        "influence": "defenses.influence:Influence",
        "robust_aggregation": "defenses.robust_aggregation:RobustAggregation",
        "ticket_similarity": "defenses.ticket_similarity:TicketSimilarity",
    },
    "attack": {
        "loss_threshold": "attacks.loss_threshold:LossThreshold",
        "lira": "attacks.lira:LiRA",
        "rmia": "attacks.rmia:RMIA",
        "dlg": "attacks.dlg:DLG",
        "idlg": "attacks.idlg:IDLG",
        "inverting_gradients": "attacks.inverting_gradients:InvertingGradients",
        "ntk_reconstruction": "attacks.ntk_reconstruction:NTKReconstruction",
        "fedavg_inversion": "attacks.fedavg_inversion:FedAvgInversion",
        "nearest_neighbour": "attacks.nearest_neighbour:NearestNeighbour",
        "extraction": "attacks.extraction:Extraction",
        "identification": "attacks.identification:Identification",
        "one_run_canaries": "attacks.one_run_canaries:OneRunCanaries",
    },
}

OFFERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "data": (("load",), ("val",)),
    "partition": (("__call__",), ("clients",)),
    "model": (("embed", "forward"), ()),
    "method": (("prepare", "init", "step", "result", "passes"), ("ipc", "iterations")),
    "networks": (("prepare", "draw"), ()),
    "algorithm": (("init", "broadcast", "client", "server", "passes", "work", "budget", "uploaded"), ()),
    "trace": (("available", "check"), ()),
    "budgets": (("scales",), ()),
    "attacker": (("check", "client"), ("clients", "target")),
    "attack": (("run", "evaluate"), ()),
}
"""What a class of one kind must have, and its settings besides `name`; asked of a user's own part."""
EITHER = {"defense": ("inspect", "aggregate"), "engine": ("run", "launch")}
"""One of these it must have."""


def names(kind: str) -> list[str]:
    """The names of one section, in the catalog's order."""
    return list(_section(kind))


def place(kind: str, name: str) -> str:
    """`module:attribute` of a choice; raises `UserError` with a suggestion for an unknown name."""
    section = _section(kind)
    if ":" in name:
        return name
    if name not in section:
        own = f", or your own as package.module:Class, such as {':'.join(name.rsplit('.', 1))}" if "." in name else ""
        raise UserError(f"unknown {kind} '{name}'{suggest(name, section)}; valid: {', '.join(section)}{own}")
    return section[name]


def resolve(kind: str, name: str) -> Any:
    """Import a choice. Raises `UserError` for a user's own `package.module:Class` that cannot be of that kind."""
    module, _, attribute = place(kind, name).partition(":")
    if name in _section(kind):
        return getattr(importlib.import_module(module), attribute)
    if not module or module.startswith("."):
        raise UserError(f"{kind} '{name}' is not a place; give it as package.module:Class")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"{kind} '{name}' cannot be imported ({error}); give it as package.module:Class, with the folder of "
            "`package` on PYTHONPATH"
        ) from error
    except Exception as error:
        line = str(error).splitlines()[0] if str(error) else ""
        raise UserError(f"{kind} '{name}' fails on import: {type(error).__name__}: {line}; mend that file") from error
    _check_own(kind, name, found)
    return found


def _check_own(kind: str, name: str, found: Any) -> None:
    """Refuse a user's part that lacks what every part of its kind has."""
    methods, settings = OFFERS.get(kind, ((), ()))
    if not hasattr(found, "Config"):
        raise UserError(f"{kind} '{name}' has no attribute Config; every {kind} carries its settings as Class.Config")
    if not hasattr(found.Config, "model_fields"):
        raise UserError(f"{kind} '{name}': its Config is no section of settings; derive it from fedsim.config.Section")
    settings = ("name", *settings)
    without = [word for word in settings if word not in found.Config.model_fields]
    if without:
        raise UserError(
            f"{kind} '{name}': its Config has no field {', '.join(without)}; every {kind} has {', '.join(settings)}"
        )
    lacking = [word for word in methods if not callable(getattr(found, word, None))]
    either = EITHER.get(kind, ())
    if either and not any(callable(getattr(found, word, None)) for word in either):
        raise UserError(f"{kind} '{name}' has no function {' or '.join(either)}; every {kind} has one of them")
    if lacking:
        raise UserError(f"{kind} '{name}' has no function {', '.join(lacking)}; every {kind} has {', '.join(methods)}")


def suggest(word: str, valid: Any) -> str:
    """`" (did you mean 'x'?)"` when a valid word is close, else nothing."""
    close = get_close_matches(word, [str(option) for option in valid], n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _section(kind: str) -> dict[str, str]:
    if kind not in CATALOG:
        raise UserError(f"unknown kind '{kind}'{suggest(kind, CATALOG)}; valid: {', '.join(CATALOG)}")
    return CATALOG[kind]
