"""`fedsim describe`: every part of the catalog shows its text, and every setting its default and meaning."""

from __future__ import annotations

import importlib
import json

import pytest
from pydantic_core import PydanticUndefined

from fedsim import catalog
from fedsim.cli import main
from fedsim.describe import describe
from fedsim.sweep_schema import Sweep
from fedsim.types import UserError

ENTRIES = [(kind, name) for kind, section in catalog.CATALOG.items() for name in section]


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_every_part_shows_its_text_and_all_settings(kind, name):
    lines = describe(name).splitlines()
    place = catalog.place(kind, name)
    assert lines[0] == f"{kind} {name}   ({place})"
    documentation = importlib.import_module(place.partition(":")[0]).__doc__
    assert documentation
    assert lines[2] == documentation.splitlines()[0]
    settings = lines[lines.index("Settings") :]
    for key, field in catalog.resolve(kind, name).Config.model_fields.items():
        (shown,) = [line for line in settings if line.startswith(f"  {key} = ")]
        if field.get_default(call_default_factory=True) is PydanticUndefined:
            assert shown == f"  {key} = (required)"
        else:
            json.loads(shown.partition(" = ")[2])
        if field.description:
            assert f"      {' '.join(str(field.description).split())}" in "\n".join(settings)


def test_defaults_that_are_sections_are_written_out():
    text = describe("perturb")
    assert '  radius = {"absolute": 5.0, "relative": null}' in text
    assert "  path = (required)" in describe("npz")


def test_an_unknown_name():
    with pytest.raises(UserError, match=r"unknown name 'feddn' \(did you mean 'feddm'\?\); fedsim list KIND"):
        describe("feddn")


def test_sections_of_the_config_files_are_described_too(capsys):
    assert main(["describe", "participation"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("section participation")
    assert "timeout = 600.0" in said
    assert "Seconds one client may work on one round" in said


def test_a_key_that_is_no_section_is_described() -> None:
    found = describe("curve")
    assert found.startswith("key curve")
    assert "to look at, never to choose by" in found


def test_a_method_of_the_users_own_is_described() -> None:
    place = "fedsim.distill.distribution.dm:DistributionMatching"
    assert describe(place).splitlines()[0] == f"method {place}   ({place})"


def test_the_file_of_a_sweep_is_described_and_each_of_its_keys() -> None:
    lines = describe("sweep").splitlines()
    assert lines[0] == "section sweep"
    assert "run: quickstart/feddm_digits.yaml  or the run itself, written out here" in lines
    for key in Sweep.model_fields:
        assert any(line.startswith(f"  {key} = ") for line in lines)
    assert "  seeds = [0]" in describe("seeds").splitlines()
    assert describe("columns").startswith("key columns")


def test_audit_is_a_section_and_a_file() -> None:
    found = describe("audit")
    assert "  holdout = 0.0" in found
    assert "  rows = 16" in found
    assert "  publish_subset = true" in found
    assert describe("lira").startswith("attack lira")


@pytest.mark.parametrize("name", ["nopkg.x:Y", ":X"])
def test_a_part_of_ones_own_that_is_not_there(name: str) -> None:
    with pytest.raises(UserError, match=r"^method '.*; give it as package\.module:Class"):
        describe(name)
