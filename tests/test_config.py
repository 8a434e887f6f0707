"""Settings: strict, YAML that comes back as it was written, overrides and `extends`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from fedsim.config import Choice, Section, digest, dump, merge, override, parse_yaml, read, to_yaml, validate
from fedsim.types import UserError


class Inner(Section):
    """Settings inside settings."""

    size: int = Field(default=3, ge=1)
    """A number."""
    limit: int | Literal["auto"] = "auto"
    """A number or a word."""


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
    model: Choice("model") | None = None  # pyright: ignore[reportInvalidTypeForm]
    """A choice."""


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
    assert parse_yaml("{on: yes, 7: -3}", "test") == {"on": True, "7": -3}  # a row may be called so
    assert parse_yaml("a: &x {b: 1, c: 2}\nd: {<<: *x, b: 3}", "test") == {"a": {"b": 1, "c": 2}, "d": {"b": 3, "c": 2}}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: {c: 1, c: 2}", "test is not valid YAML: key 'c' is given twice (line 2, column 11)"),
        ("a: [1", "test is not valid YAML: expected ',' or ']'"),
        (
            "a: 010",
            "test is not valid YAML: 010 is no decimal integer (quote it where text is meant) (line 1, column 4)",
        ),
        ("a: 1:30", "test is not valid YAML: 1:30 is no decimal integer"),
        ("a: 0x10", "test is not valid YAML: 0x10 is no decimal integer"),
        ('{"": 1}', "test is not valid YAML: a key is no word (line 1, column 2)"),
        ("{[1]: 2}", "test is not valid YAML: a key is no word"),
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
