"""The catalog: every entry is there, carries its settings, and a wrong name is answered by the right one."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from fedsim import catalog
from fedsim.config import Section
from fedsim.types import UserError

ENTRIES = [(kind, name) for kind, section in catalog.CATALOG.items() for name in section]


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_every_entry_is_there_and_its_config_is_named_like_it(kind, name):
    found = catalog.resolve(kind, name)
    assert issubclass(found.Config, Section)
    assert found.Config.model_fields["name"].default == name
    module, _, attribute = catalog.place(kind, name).partition(":")
    assert (found.__module__, found.__name__) == (module, attribute)


def test_a_name_means_one_thing():
    """`fedsim describe NAME` does not ask which kind is meant."""
    names = [name for _, name in ENTRIES]
    assert sorted(set(names)) == sorted(names)


def test_a_part_of_the_user_is_named_by_its_place(monkeypatch):
    class Mine:
        class Config(Section):
            name: str

    module = ModuleType("my_package_of_tests")
    module.Mine, module.Bare = Mine, object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_package_of_tests", module)
    assert catalog.resolve("method", "my_package_of_tests:Mine") is Mine
    with pytest.raises(UserError, match=r"method 'my_package_of_tests:Bare' has no attribute Config"):
        catalog.resolve("method", "my_package_of_tests:Bare")
    with pytest.raises(UserError, match=r"cannot be imported .*'Other'.*give it as package.module:Class"):
        catalog.resolve("method", "my_package_of_tests:Other")


@pytest.mark.parametrize("name", [":X", ".relative:X", "no.such.module:X", "os.path:nothing"])
def test_a_place_that_is_none(name):
    with pytest.raises(UserError, match=r"give it as package\.module:Class"):
        catalog.resolve("model", name)


@pytest.mark.parametrize(
    ("kind", "name", "line"),
    [
        ("model", "convet", r"unknown model 'convet' \(did you mean 'convnet'\?\); valid: convnet, lenet"),
        ("model", "zebra", r"unknown model 'zebra'; valid: convnet"),
        ("model", "", r"unknown model ''; valid: convnet"),
        ("modle", "convnet", r"unknown kind 'modle' \(did you mean 'model'\?\); valid: data, partition"),
    ],
)
def test_a_wrong_name(kind, name, line):
    with pytest.raises(UserError, match=line):
        catalog.resolve(kind, name)


def test_an_error_inside_an_entry_is_no_user_error(monkeypatch):
    monkeypatch.setitem(catalog.CATALOG["model"], "broken", "fedsim.models.nothing:Here")
    with pytest.raises(ModuleNotFoundError):
        catalog.resolve("model", "broken")


def test_suggestions_are_close_or_absent():
    assert catalog.suggest("widht", ["depth", "width"]) == " (did you mean 'width'?)"
    assert catalog.suggest("x", ["depth", "width"]) == ""
    assert catalog.suggest("x", []) == ""
