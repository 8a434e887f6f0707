"""The Python interface: load images, distil them, evaluate the result, simulate a federation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from fedsim import catalog
from fedsim.compute import Compute, settle
from fedsim.config import Raw, Section, override, validate
from fedsim.data.foreign import read_set
from fedsim.data.images import Dataset
from fedsim.data.synthetic import SyntheticSet
from fedsim.data.transforms import Normalise
from fedsim.distill.cost import Passes
from fedsim.distill.drive import condense
from fedsim.experiment import execute
from fedsim.schema import load_run
from fedsim.seeding import Streams
from fedsim.tasks import central_task, network_factory
from fedsim.training.evaluate import EvaluationConfig, Score, score, scored_bits, teacher_of
from fedsim.types import UserError
from fedsim.workload import settle_compile


@contextmanager
def _threads(compute: Compute) -> Iterator[None]:
    """torch on as many threads as asked, by default one, as on the command line: sums depend on the number."""
    before = torch.get_num_threads()
    torch.set_num_threads(compute.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def load(name: str, **settings: Any) -> Dataset:
    """A data set of the catalog by name (`digits`, `mnist`, `npz` with `path=FILE` …)."""
    return catalog.resolve("data", name)(section("data", {"name": name, **settings})).load()


def save(synthetic: SyntheticSet, path: Path | str) -> None:
    """Write a synthetic set as safetensors; `SyntheticSet.load` reads it."""
    synthetic.save(path)


def distill(
    data: Dataset,
    method: str = "dm",
    *,
    model: str | Raw = "convnet",
    seed: int = 0,
    compute: Raw | None = None,
    **settings: Any,
) -> SyntheticSet:
    """Condense the training images of `data`; `settings` are those of the method (`ipc=5`, `iterations=500` …).

    `model` is a name or a mapping such as `{"name": "convnet", "width": 32}`; too deep a network for the images is a
    `UserError` that says so. `compute` holds settings of that section (`{"device": "cuda", "compile": True}` …).
    """
    chosen: Any = section("method", {"name": method, **settings})
    distiller = catalog.resolve("method", method)(chosen)
    asked = settle(validate(Compute, compute or {}))
    network = network_factory(_fitting(model, data), data, torch.device(asked.device))
    passes = distiller.passes(data.train.counts(data.num_classes))
    how = settle_compile(asked, passes, network(Streams(seed).generator("template")), data.image_shape)
    with _threads(how):
        normalise = Normalise.of(data, data.train)
        task = central_task(data.train, data, normalise, network, chosen.ipc, how, Streams(seed))
        synthetic, _ = condense(distiller, task, chosen.iterations, Streams(seed, ("set", 0)))
    return synthetic


def evaluate(
    synthetic: SyntheticSet,
    data: Dataset,
    *,
    model: str | Raw = "convnet",
    seed: int = 0,
    compute: Raw | None = None,
    **settings: Any,
) -> Score:
    """Train fresh networks on the set and test each once; `settings` are those of the protocol (`nets=5` …).

    Labels are those stored in the set: soft where it has such, unless `labels` says otherwise. With `labels="teacher"`
    a teacher is trained on all of `data.train`.
    """
    if problem := synthetic.problem(data.num_classes, data.image_shape):
        raise UserError(f"the synthetic set does not fit the test images: {problem}")
    if data.zca is not None and synthetic.zca is None:
        raise UserError(
            f"data.zca={data.zca:g}: the synthetic set was made without whitening; leave that out, its file says how"
        )
    asked = settle(validate(Compute, compute or {}))
    protocol = validate(EvaluationConfig, _regime(synthetic) | settings)
    fresh = network_factory(_fitting(protocol.model or model, data), data, torch.device(asked.device))
    passes = Passes(training=protocol.images_seen(len(synthetic.as_images()), len(data.train)))
    how = settle_compile(asked, passes, fresh(Streams(seed).generator("template")), data.image_shape)
    images, normalise = synthetic.as_images().to(torch.device(how.device)), synthetic.normalise()
    streams, execution = Streams(seed, ("evaluation",)), how.execution()
    with _threads(how):
        teacher = teacher_of(protocol, data.train, normalise, fresh, Streams(seed, ("teacher",)), execution=execution)
        return score([images], data.test, normalise, protocol, fresh, streams, execution=execution, teacher=teacher)


def simulate(config: Path | str, *assignments: str, out: Path | str = "runs", resume: bool = False) -> Path:
    """`fedsim run CONFIG key=value …` from Python; returns the run directory.

    Client processes import the calling script: keep the call under `if __name__ == "__main__":`.
    """
    return execute(load_run(Path(config), assignments), Path(out), resume=resume)


def evaluate_file(path: Path, data: str, assignments: list[str], seed: int) -> Raw:
    """What `fedsim evaluate` prints. Keys `data.…`, `model…`, `compute.…` are of those sections, others the protocol's.

    `path` is a set of ours, or another tool's as npz (`data/foreign.py`).
    The protocol stored in the set is the default, so that a set is scored as its maker scored it.
    """
    about_data = [word for word in assignments if word.partition("=")[0].partition(".")[0] == "data"]
    source = override({"data": {"name": data}}, about_data)["data"]
    if not isinstance(source, dict):
        raise UserError(f"data={source!r}: give data.path=…")
    chosen: Any = section("data", source)
    images = catalog.resolve("data", chosen.name)(chosen).load()
    synthetic = read_set(path, images)
    base = {"model": "convnet", **_regime(synthetic), **synthetic.protocol, "compute": {}}
    settings = override(base, [word for word in assignments if word not in about_data])
    model, compute = settings.pop("model"), settings.pop("compute")
    if not isinstance(model, dict | str) or not model:
        raise UserError(f"model={model!r}: give model=NAME or model.width=…")
    chosen_model = _fitting(model, images)
    protocol = validate(EvaluationConfig, settings).model_dump(mode="json")
    protocol |= {"model": chosen_model.model_dump(mode="json")}
    result = evaluate(synthetic, images, model=model, seed=seed, compute=compute, **settings)
    return result.as_dict() | {
        "synthetic_images": len(synthetic),
        "bits": scored_bits(synthetic, protocol["labels"], protocol["steps"]),
        "protocol": protocol,
    }


def _regime(synthetic: SyntheticSet) -> Raw:
    """The label regime of a set that nothing is said of: that of the labels it holds."""
    return {"labels": "hard" if synthetic.soft is None else "soft"}


def section(kind: str, raw: Raw) -> Section:
    """A section of the catalog's `kind` from plain values, with one-line errors."""
    name = raw.get("name")
    if not isinstance(name, str):
        raise UserError(f"{kind} has no name (got {raw!r}); valid: {', '.join(catalog.names(kind))}")
    return validate(catalog.resolve(kind, name).Config, raw)


def _fitting(model: str | Raw | Section, data: Dataset) -> Section:
    """The model's section; a bare `convnet` gets the depth that images smaller than 28 pixels allow."""
    if isinstance(model, Section):
        return model
    if model == "convnet" and min(data.image_shape[1:]) < 28:
        return section("model", {"name": "convnet", "depth": 2})
    return section("model", {"name": model} if isinstance(model, str) else model)
