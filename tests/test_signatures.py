"""Calls of the product are checked against the shapes that their signatures name, the first and those that differ."""

from __future__ import annotations

import importlib.util
import sys
from collections import OrderedDict
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from jaxtyping import TypeCheckError

from fedsim.training import train
from tests import signatures

SOURCE = """
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor

Named = Float[Tensor, "n"]

def plain(x: int, y: Tensor) -> int:
    return x

def added(x: Float[Tensor, "n"], y: Float[Tensor, "n"], *, wrong: bool = False) -> Float[Tensor, "n"]:
    return (x + y)[None] if wrong else x + y

def renamed(x: Named) -> Named:
    return x

def several(rows: list[Float[Tensor, "_"]], mapped: dict[str, Float[Tensor, "_"]]) -> int:
    return len(rows)

def outer(n: int) -> Callable[[Tensor], Tensor]:
    def inner(x: Float[Tensor, "n d"]) -> Float[Tensor, "n"]:
        return x.sum(1) * n
    return inner

def both(rows: list[Float[Tensor, "n _"]], classes: list[Int64[Tensor, "n"]]) -> dict[str, Float[Tensor, "_"]]:
    return {str(place): row.flatten() if place < 2 else row for place, row in enumerate(rows)}

@dataclass(frozen=True)
class Row:
    values: Float[Tensor, "n"]
    others: Float[Tensor, "n"]

@dataclass(frozen=True)
class Table:
    values: Float[Tensor, "n d"]
    others: Float[Tensor, "n d"]

@dataclass(frozen=True)
class Pair:
    images: Float[Tensor, "n d"]
    labels: Int64[Tensor, "n"]

    @property
    def first(self) -> Float[Tensor, "d"]:
        return self.images[0] if len(self.labels) < 3 else self.images

    @classmethod
    def of(cls, images: Float[Tensor, "n d"]) -> Pair:
        return cls(images, torch.zeros(len(images), dtype=torch.int64))

import torch
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The source above as a module that the hook has loaded."""
    path = tmp_path_factory.mktemp("hooked") / "hooked.py"
    path.write_text(SOURCE)
    loader = signatures._Loader("hooked", str(path))
    spec = importlib.util.spec_from_loader("hooked", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["hooked"] = module
    loader.exec_module(module)
    assert not (path.parent / "__pycache__").exists()
    yield module
    del sys.modules["hooked"]


def test_what_names_no_shape_is_left_alone(made: ModuleType) -> None:
    assert not hasattr(made.plain, "__wrapped__")
    assert not hasattr(made.outer, "__wrapped__")
    assert hasattr(made.renamed, "__wrapped__")


def test_arguments_that_do_not_fit_are_refused_before_and_after_some_that_do(made: ModuleType) -> None:
    one, two = torch.ones(3), torch.ones(4)
    for _ in range(2):
        with pytest.raises(TypeCheckError, match=r"parameters of\s+hooked\.added"):
            made.added(one, two)
        with pytest.raises(TypeCheckError):
            made.added(one, y=one.long())
        assert torch.equal(made.added(one, one), 2 * one)
        assert torch.equal(made.added(two, y=two), 2 * two)


def test_a_result_that_does_not_fit_is_refused_after_one_that_did(made: ModuleType) -> None:
    one = torch.ones(3)
    for _ in range(2):
        made.added(one, one, wrong=False)
        with pytest.raises(TypeCheckError, match=r"return value of\s+hooked\.added"):
            made.added(one, one, wrong=True)


def test_a_name_of_a_shape_and_what_collections_hold_are_looked_at(made: ModuleType) -> None:
    made.renamed(torch.ones(2))
    with pytest.raises(TypeCheckError):
        made.renamed(torch.ones(2, 2))
    good, bad = torch.ones(2), torch.ones(2, 2)
    assert made.several([good, good], {"a": good}) == 2
    with pytest.raises(TypeCheckError):
        made.several([bad, bad], {"a": good})
    with pytest.raises(TypeCheckError):
        made.several([good, good], {"a": bad})


def test_every_item_of_a_collection_is_looked_at_and_not_by_chance(made: ModuleType) -> None:
    good, bad, other = torch.ones(2), torch.ones(2, 2), torch.ones(5)
    for _ in range(2):
        for length in (2, 3, 20):
            for place in range(length):
                rows = [good] * length
                rows[place] = bad
                with pytest.raises(TypeCheckError):
                    made.several(rows, {"a": good})
        for mapped in ({"a": good, "b": bad}, OrderedDict(a=good, b=bad), {"a": good, "b": other, "c": good.long()}):
            with pytest.raises(TypeCheckError):
                made.several([good, other], mapped)
        assert made.several([good, other, good], OrderedDict(a=good, b=other)) == 3
        assert made.several([], {}) == 0


def test_items_of_several_kinds_are_looked_at_with_those_at_the_same_place(made: ModuleType) -> None:
    rows, classes = [torch.ones(2, 3), torch.ones(4, 3)], [torch.zeros(2).long(), torch.zeros(4).long()]
    assert len(made.both(rows, classes)) == 2
    for _ in range(2):
        with pytest.raises(TypeCheckError):
            made.both(rows, classes[::-1])
        with pytest.raises(TypeCheckError, match="return value"):  # the last of the result is no vector
            made.both([*rows, rows[0]], [*classes, classes[0]])


def test_two_data_classes_with_the_same_fields_are_told_apart(made: ModuleType) -> None:
    vector, table = torch.ones(2), torch.ones(2, 2)
    made.Row(vector, vector)
    made.Table(table, table)
    for wrong, value in ((made.Row, table), (made.Table, vector)):
        with pytest.raises(TypeCheckError):
            wrong(value, value)


def test_a_closure_is_looked_at_each_time_that_it_is_defined(made: ModuleType) -> None:
    for n in range(3):
        assert torch.equal(made.outer(n)(torch.ones(4, 2)), torch.full((4,), 2.0 * n))
        with pytest.raises(TypeCheckError):
            made.outer(n)(torch.ones(4))


def test_the_fields_properties_and_methods_of_a_data_class_are_looked_at(made: ModuleType) -> None:
    images = torch.ones(2, 5)
    assert torch.equal(made.Pair.of(images).first, images[0])
    with pytest.raises(TypeCheckError):
        made.Pair(images, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(TypeCheckError):
        made.Pair.of(images[0])
    with pytest.raises(TypeCheckError):
        _ = made.Pair(torch.ones(3, 5), torch.zeros(3, dtype=torch.int64)).first


def test_the_product_is_loaded_by_the_hook() -> None:
    assert isinstance(train.__loader__, signatures._Loader)
    with pytest.raises(RuntimeError, match="fedsim: imported before the hook"):
        signatures.install()
