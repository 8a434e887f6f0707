"""Settings: strict, one-line errors, YAML that comes back as it was written, overrides and `extends`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, field_validator, model_validator

from fedsim.config import Choice, Section, digest, dump, merge, override, parse_yaml, read, to_yaml, validate
from fedsim.types import UserError


class Inner(Section):
    """Settings inside settings."""

    size: int = Field(default=3, ge=1)
    """A number."""
    limit: int | Literal["auto"] = "auto"
    """A number or a word."""


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


class Outer(Section):
    """Settings with every kind of field."""

    name: str = "outer"
    """Not part of the hash."""
    seed: int = 0
    """Not part of the hash."""
    rate: float = Field(default=0.1, gt=0)
    """A number."""
    text: str = ""
    """Any text."""
    inner: Inner = Inner()
    """A section."""
    perhaps: Inner | None = None
    """A section or nothing."""
    many: tuple[Inner, ...] = Field(default=(), strict=False)
    """Sections."""
    named: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Name → settings."""
    numbers: tuple[int, ...] = Field(default=(1,), min_length=1, strict=False)
    """At least one."""
    pair: Pair = Pair()
    """Two that go together."""
    model: Choice("model") | None = None  # pyright: ignore[reportInvalidTypeForm]
    """A choice."""

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


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Outer().rate = 2.0


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=30)
TRICKY = st.sampled_from(
    ["1e3", "5.", "on", "null", "~", "2024-01-01", "0x1F", "1:30", "=", "<<", "- a", "a: b", "#", " a "]
)


@settings(max_examples=25, deadline=None)
@given(text=TEXT | TRICKY, rate=st.floats(min_value=1e-300, max_value=1e300), seed=st.integers(-(2**63), 2**63 - 1))
def test_what_is_written_is_what_is_read(text, rate, seed):
    config = Outer(text=text, rate=rate, seed=seed, perhaps=Inner(size=2), many=(Inner(), Inner(limit=7)))
    assert validate(Outer, parse_yaml(to_yaml(config), "test")) == config


@pytest.mark.parametrize("text", ["1e3", "5.", "-.5E+2", "2024-01-01", "no", "12", "0o7", "1_0", ".nan"])
def test_text_that_looks_like_something_else_stays_text(text):
    assert validate(Outer, parse_yaml(to_yaml(Outer(text=text)), "test")).text == text


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("1E5", 1e5), ("-.5", -0.5), ("5.", 5.0), ("3", 3), ("1.5e+2", 150.0), ("e3", "e3")],
)
def test_numbers_as_scientists_write_them(text, value):
    parsed = parse_yaml(text, "test")
    assert (parsed, type(parsed)) == (value, type(value))


def test_a_date_is_text_and_aliases_and_merge_keys_work():
    assert parse_yaml("2024-01-01", "test") == "2024-01-01"
    assert parse_yaml("a: &x {b: 1, c: 2}\nd: {<<: *x, b: 3}", "test") == {"a": {"b": 1, "c": 2}, "d": {"b": 3, "c": 2}}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: {c: 1, c: 2}", "test is not valid YAML: key 'c' is given twice (line 2, column 11)"),
        ("a: [1", "test is not valid YAML: expected ',' or ']'"),
        (f"a: {2**63}", "test is not valid YAML: an integer has more than 64 bits (line 1, column 4)"),
        ("!!python/object/apply:os.getcwd []", "test is not valid YAML: could not determine a constructor"),
        ("[" * 2000, "test is not valid YAML: "),
    ],
)
def test_broken_yaml_is_one_line(text, line):
    with pytest.raises(UserError) as caught:
        parse_yaml(text, "test")
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_overrides_in_order():
    raw = {"rounds": 2, "model": {"name": "convnet", "width": 8}, "data": "digits", "method": None, "name": "x"}
    before = json.dumps(raw)
    words = ["rounds=3", "model.depth=2", "data.val=0.2", "method.ipc=5", "new.deep.key=[1, 2]", "name=y", "text=a=b"]
    assert override(raw, words) == {
        "rounds": 3,
        "model": {"name": "convnet", "width": 8, "depth": 2},
        "data": {"name": "digits", "val": 0.2},
        "method": {"ipc": 5},
        "name": "y",
        "new": {"deep": {"key": [1, 2]}},
        "text": "a=b",
    }
    assert json.dumps(raw) == before


@pytest.mark.parametrize("word", ["model=mlp", "model.name=mlp"])
def test_naming_a_section_restarts_it_and_keeps_what_follows(word):
    raw = {"model": {"name": "convnet", "width": 8}}
    assert override(raw, ["model.depth=3", word, "model.width=16"]) == {"model": {"name": "mlp", "width": 16}}


def test_what_an_alias_repeats_is_overridden_once():
    raw = parse_yaml("a: &x {b: 1}\nc: *x", "test")
    assert override(raw, ["a.b=2"]) == {"a": {"b": 2}, "c": {"b": 1}}


@pytest.mark.parametrize("word", ["", "=", "=1", "a", ".a=1", "a.=1", "a..b=1", "n.x=1", "a=[", "l.x=1"])
def test_words_that_are_no_override(word):
    with pytest.raises(UserError, match="override"):
        override({"n": 1, "l": [1]}, [word])


RAW = st.recursive(
    st.integers(0, 3) | st.sampled_from(["x", "y"]),
    lambda inner: st.dictionaries(st.sampled_from(["a", "b", "name"]), inner, max_size=3),
    max_leaves=6,
).filter(lambda value: isinstance(value, dict))


@settings(max_examples=25, deadline=None)
@given(base=RAW, over=RAW)
def test_merge_takes_every_key_of_both_and_the_values_of_the_upper(base, over):
    merged = merge(base, over)
    assert merged.keys() == base.keys() | over.keys()
    assert merge(base, {}) == base
    assert merge({}, over) == over
    assert merge(merged, over) == merged
    for key, value in over.items():
        assert isinstance(value, dict) or merged[key] == value


def test_merge_restarts_a_section_of_another_name():
    base = {"model": {"name": "convnet", "width": 8}, "data": "digits"}
    assert merge(base, {"model": {"depth": 2}})["model"] == {"name": "convnet", "width": 8, "depth": 2}
    assert merge(base, {"model": {"name": "mlp"}})["model"] == {"name": "mlp"}
    assert merge(base, {"model": "mlp"})["model"] == "mlp"
    assert merge(base, {"data": {"val": 0.2}})["data"] == {"name": "digits", "val": 0.2}


def test_extends_is_relative_to_the_file_and_may_be_repeated(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "base.yaml").write_text("a: {x: 1, y: 1, z: 1}\nb: 1")
    (tmp_path / "sub/middle.yaml").write_text("extends: ../base.yaml\na: {y: 2, z: 2}")
    (tmp_path / "top.yaml").write_text("extends: sub/middle.yaml\na: {z: 3}\nc: 3")
    assert read(tmp_path / "top.yaml") == {"a": {"x": 1, "y": 2, "z": 3}, "b": 1, "c": 3}


def test_the_hash_leaves_out_name_and_seed_and_nothing_else():
    base = digest(Outer())
    assert len(base) == 12
    assert int(base, 16) >= 0
    assert digest(Outer(name="other", seed=9)) == base
    changed = [
        Outer(rate=0.2),
        Outer(text="x"),
        Outer(inner=Inner(size=4)),
        Outer(perhaps=Inner()),
        Outer(many=(Inner(),)),
    ]
    assert len({base, *(digest(one) for one in changed)}) == 6


def test_the_written_config_holds_every_default_in_plain_yaml():
    written = yaml.safe_load(to_yaml(Outer()))
    assert written == dump(Outer())
    assert written["inner"] == {"size": 3, "limit": "auto"}


class Grown(Outer):
    """The same settings after more were added."""

    later = ("more", "also")
    more: Inner = Inner()
    """A section."""
    also: float | None = None
    """A number or nothing."""


class Around(Section):
    """A section whose section grew."""

    inner: Outer | Grown
    """A section."""


def test_settings_that_came_later_change_no_hash_until_they_are_used():
    assert digest(Grown()) == digest(Outer())
    assert digest(Grown(seed=3, rate=0.2)) == digest(Outer(rate=0.2))
    assert digest(Around(inner=Grown())) == digest(Around(inner=Outer()))
    used = [Grown(more=Inner(size=4)), Grown(also=0.0)]
    found = {digest(one) for one in [Outer(), *used, *(Around(inner=one) for one in used)]}
    assert len(found) == 5
    assert "more" in dump(Grown())
