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
            ipc: int
            iterations: int

        prepare = init = step = result = passes = len

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


class Settings(Section):
    name: str
    ipc: int
    iterations: int


class NoName(Section):
    ipc: int
    iterations: int


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"Config": int}, "its Config is no section of settings; derive it from fedsim.config.Section"),
        ({"Config": NoName}, "its Config has no field name; every method has name, ipc, iterations"),
        ({"Config": Section}, "its Config has no field name, ipc, iterations; every method has name, ipc, iterations"),
        (
            {"Config": Settings, "prepare": len, "init": len, "result": len},
            "has no function step, passes; every method has prepare, init, step, result, passes",
        ),
    ],
)
def test_a_part_of_the_user_that_is_no_method(given, line, monkeypatch):
    module = ModuleType("my_package_of_tests")
    module.Mine = type("Mine", (), given)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_package_of_tests", module)
    with pytest.raises(UserError) as refused:
        catalog.resolve("method", "my_package_of_tests:Mine")
    assert str(refused.value) in (
        f"method 'my_package_of_tests:Mine' {line}",
        f"method 'my_package_of_tests:Mine': {line}",
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("def broken(:", r"fails on import: SyntaxError: invalid syntax .own_of_tests.py, line 1.; mend that file"),
        ("unknown_word", r"fails on import: NameError: name 'unknown_word' is not defined; mend that file"),
        ("raise ValueError", r"fails on import: ValueError: ; mend that file"),
        ("import no_such_package", r"cannot be imported .No module named 'no_such_package'.; give it as"),
    ],
)
def test_a_file_of_the_user_that_fails(text, line, tmp_path, monkeypatch):
    (tmp_path / "own_of_tests.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=line) as refused:
        catalog.resolve("method", "own_of_tests:Mine")
    assert "\n" not in str(refused.value)


def test_a_place_without_its_colon_is_recognised():
    with pytest.raises(
        UserError, match=r"unknown method 'my.mine.Mine'; .* as package.module:Class, such as my.mine:Mine"
    ):
        catalog.resolve("method", "my.mine.Mine")


def test_every_method_has_what_is_asked_of_a_users_own():
    functions, settings = catalog.OFFERS["method"]
    for name in catalog.names("method"):
        found = catalog.resolve("method", name)
        assert all(callable(getattr(found, word)) for word in functions)
        assert {"name", *settings} <= found.Config.model_fields.keys()


def test_an_error_inside_an_entry_is_no_user_error(monkeypatch):
    monkeypatch.setitem(catalog.CATALOG["model"], "broken", "fedsim.models.nothing:Here")
    with pytest.raises(ModuleNotFoundError):
        catalog.resolve("model", "broken")


def test_suggestions_are_close_or_absent():
    assert catalog.suggest("widht", ["depth", "width"]) == " (did you mean 'width'?)"
    assert catalog.suggest("x", ["depth", "width"]) == ""
    assert catalog.suggest("x", []) == ""


EVERY = [(kind, name) for kind in catalog.OFFERS for name in catalog.names(kind)]


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_what_is_asked_of_a_part_of_ones_own_all_of_ours_have(kind: str, name: str) -> None:
    found = catalog.resolve(kind, name)
    methods, settings = catalog.OFFERS[kind]
    assert [word for word in methods if not callable(getattr(found, word, None))] == []
    assert [word for word in settings if word not in found.Config.model_fields] == []


@pytest.mark.parametrize("kind", catalog.EITHER)
def test_of_what_can_be_either_all_of_ours_are_one(kind: str) -> None:
    for name in catalog.names(kind):
        assert any(callable(getattr(catalog.resolve(kind, name), word, None)) for word in catalog.EITHER[kind])


class Named(Section):
    """Settings of nothing."""

    name: str = "nothing"


class Nothing:
    """A part that does nothing."""

    Config = Named


@pytest.mark.parametrize("kind", [*catalog.OFFERS, *catalog.EITHER])
def test_a_part_of_ones_own_that_does_nothing_is_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("my_package_of_tests")
    module.Nothing = Nothing  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_package_of_tests", module)
    with pytest.raises(UserError, match=rf"^{kind} 'my_package_of_tests:Nothing'.* has no (function|field)"):
        catalog.resolve(kind, "my_package_of_tests:Nothing")
