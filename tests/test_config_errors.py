"""What is wrong with settings: one line that names the key, what came and what is valid."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import Field, field_validator, model_validator

from fedsim.config import Section, validate
from fedsim.types import UserError
from tests.test_config import Outer as Plain


class Pair(Section):
    """Two numbers that go together."""

    low: int = 1
    """The lower one."""
    high: int = 2
    """The higher one."""

    @model_validator(mode="after")
    def _ordered(self) -> Pair:
        if self.low < 0:
            raise ValueError("a negative pair; give another")
        if self.low >= self.high:
            raise ValueError(f"low: got {self.low}; valid: below high={self.high}")
        return self


class Outer(Plain):
    """Settings with mappings, lists that have rules, and validators of their own beside every kind of field."""

    named: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Name → settings."""
    numbers: tuple[int, ...] = Field(default=(1,), min_length=1, strict=False)
    """At least one."""
    pair: Pair = Pair()
    """Two that go together."""

    @field_validator("numbers")
    @classmethod
    def _distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"got {list(value)}; valid: each once")
        return value


REFUSED = {
    "unknown": ({"rat": 1}, "rat: unknown key (did you mean 'rate'?); valid: name, seed, rate, text, inner"),
    "unknown_inside": ({"inner": {"sise": 1}}, "inner.sise: unknown key (did you mean 'size'?); valid: size, limit"),
    "unknown_in_optional": ({"perhaps": {"x": 1}}, "perhaps.x: unknown key; valid: size, limit"),
    "unknown_in_list": ({"many": [{}, {"x": 1}]}, "many.1.x: unknown key; valid: size, limit"),
    "type": ({"rate": "fast"}, "rate: got 'fast' (str); should be a valid number"),
    "bool_is_no_number": ({"seed": True}, "seed: got True (bool); should be a valid integer"),
    "float_is_no_integer": ({"seed": 1.0}, "seed: got 1.0 (float); should be a valid integer"),
    "null": ({"rate": None}, "rate: got null; should be a valid number"),
    "range": ({"inner": {"size": 0}}, "inner.size: got 0 (int); should be greater than or equal to 1"),
    "union": ({"inner": {"limit": "x"}}, "inner.limit: got 'x' (str); should be a valid integer or 'auto'"),
    "not_finite": ({"rate": float("nan")}, "rate: got nan (float); should be a finite number"),
    "no_section": ({"perhaps": 3}, "perhaps: got 3 (int); should be a mapping with keys of: size, limit"),
    "no_list": ({"many": 3}, "many: got 3 (int); should be a list"),
    "no_name": ({"model": {}}, "model: needs a name; valid: convnet, lenet"),
    "unknown_name": ({"model": "mpl"}, "model.name: unknown model 'mpl' (did you mean 'mlp'?); valid: convnet"),
    "inside_choice": ({"model": {"name": "convnet", "width": 0}}, "model.width: got 0 (int); should be greater"),
    "several": ({"rate": 0, "seed": "x", "text": 1}, "seed: got 'x' (str); should be a valid integer (2 more settings"),
    "two": ({"rate": 0, "text": 1}, "rate: got 0 (int); should be greater than 0 (1 more setting is wrong)"),
    "null_in_a_mapping": ({"named": {"a": None}}, "named.a: got null; should be a mapping, {} where nothing is meant"),
    "number_in_a_mapping": ({"named": {"a": 3}}, "named.a: got 3 (int); should be a mapping"),
    "name_that_is_no_text": ({"named": {3: {}}}, "named.3: got 3 (int); should be a valid string"),
    "too_few": ({"numbers": []}, "numbers: got [] (list); should have at least 1 item"),
    "wrong_item": ({"numbers": ["x"]}, "numbers.0: got 'x' (str); should be a valid integer"),
    "own_words": ({"numbers": [1, 1]}, "numbers: got [1, 1]; valid: each once"),
    "of_a_key": ({"pair": {"low": 3}}, "pair.low: got 3; valid: below high=2"),
    "of_a_section": ({"pair": {"low": -1}}, "pair: a negative pair; give another"),
    "long_value": ({"seed": "x" * 500}, "seed: got '" + "x" * 76 + "... (str); should be"),
}  # fmt: skip


@pytest.mark.parametrize(("raw", "line"), REFUSED.values(), ids=REFUSED)
def test_every_error_is_one_line_that_names_the_key(raw, line):
    with pytest.raises(UserError) as caught:
        validate(Outer, raw)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


EXACT = [
    ({"numbers": ["x"]}, "numbers.0: got 'x' (str); should be a valid integer"),
    ({"numbers": []}, "numbers: got [] (list); should have at least 1 item"),
    ({"numbers": [1, 1]}, "numbers: got [1, 1]; valid: each once"),
]


@pytest.mark.parametrize(("raw", "line"), EXACT)
def test_what_follows_from_another_fault_is_not_counted(raw, line):
    with pytest.raises(UserError) as caught:
        validate(Outer, raw)
    assert str(caught.value) == line


class Demanding(Section):
    """A setting that has to be given."""

    rows: dict[str, Any]
    """Must be there."""
    other: int
    """Must be there too."""

    @model_validator(mode="after")
    def _never(self) -> Demanding:
        raise ValueError("all of it is wrong; give another file")


def test_a_misspelt_key_is_named_in_the_place_of_the_one_that_is_missing():
    with pytest.raises(UserError) as caught:
        validate(Demanding, {"row": {}, "other": 1})
    assert str(caught.value) == "row: unknown key (did you mean 'rows'?); valid: rows, other"
    with pytest.raises(UserError, match=r"^row: unknown key .*valid: rows, other \(1 more setting is wrong\)$"):
        validate(Demanding, {"row": {}})
    with pytest.raises(UserError, match=r"^rows: is required and was not given \(1 more setting is wrong\)$"):
        validate(Demanding, {})


def test_what_is_wrong_with_a_whole_file_has_no_path():
    with pytest.raises(UserError, match=r"^all of it is wrong; give another file$"):
        validate(Demanding, {"rows": {}, "other": 1})
