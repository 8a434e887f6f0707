"""House rules that a parser can check: sizes, no global randomness, no pickle, a docstring under every setting."""

from __future__ import annotations

import ast
import importlib
from functools import cache
from pathlib import Path

from fedsim.config import Section

ROOT = Path(__file__).parent.parent / "fedsim"
FILES = sorted(ROOT.rglob("*.py"))
SEEDING = {"manual_seed", "manual_seed_all", "seed", "seed_all", "set_state", "set_rng_state", "setstate"}
GLOBALS = {"torch", "torch.cuda", "torch.random", "np.random", "numpy.random", "random"}
DRAWS = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "rand_like", "randn_like"}
MODULE_DRAWS = {"random", "choice", "shuffle", "permutation", "uniform", "randint", "randn", "sample", "normal"}
UNPICKLING = {"pickle.load", "pickle.loads", "torch.load", "joblib.load"}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def calls(path: Path) -> list[tuple[str, str, ast.Call]]:
    """(what stands before the last dot, what after it, the call) of every call by name."""
    found = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
            owner, _, name = ast.unparse(node.func).rpartition(".")
            found.append((owner, name, node))
    return found


def at(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT.parent)}:{getattr(node, 'lineno', 0)}"


def test_no_file_has_more_than_250_lines():
    lengths = {str(path.relative_to(ROOT.parent)): len(path.read_text().splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length > 250} == {}


def test_no_function_has_more_than_40_lines():
    functions = [
        (path, node)
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    lengths = {f"{at(path, node)} {node.name}": (node.end_lineno or 0) - node.lineno + 1 for path, node in functions}
    assert {name: length for name, length in lengths.items() if length > 40} == {}


def test_no_global_generator_is_seeded_or_drawn_from():
    wrong = []
    for path in FILES:
        for owner, name, node in calls(path):
            seeds = owner in GLOBALS and name in SEEDING
            draws = owner == "torch" and name in DRAWS and "generator" not in {word.arg for word in node.keywords}
            numpy = owner in {"np.random", "numpy.random", "random"} and name in MODULE_DRAWS
            if seeds or draws or numpy:
                wrong.append(f"{at(path, node)} {owner}.{name}")
    assert wrong == []


def test_nothing_is_unpickled():
    wrong = [at(path, node) for path in FILES for owner, name, node in calls(path) if f"{owner}.{name}" in UNPICKLING]
    assert wrong == []
    loads = [(path, node) for path in FILES for owner, name, node in calls(path) if (owner, name) == ("np", "load")]
    for path, node in loads:
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        assert given.get("allow_pickle") == "False", at(path, node)


def test_no_module_is_a_drawer_of_odds_and_ends():
    assert [path.name for path in FILES if path.stem in {"utils", "helpers", "common", "misc"}] == []


def test_every_module_says_what_it_is():
    silent = [path.name for path in FILES if path.read_text().strip() and not ast.get_docstring(tree(path))]
    assert silent == []


def sections() -> list[type[Section]]:
    for path in FILES:
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        if path.stem not in {"__main__", "__init__"}:
            importlib.import_module(".".join(parts))
    found: list[type[Section]] = []
    waiting = [Section]
    while waiting:
        below = waiting.pop().__subclasses__()
        waiting += below
        found += [one for one in below if one.__module__.startswith("fedsim.") and not one.__name__.startswith("_")]
    return found


def test_every_setting_has_a_docstring():
    """But for `name`, which says what the section is. The modules are imported here: no other worker needs them all."""
    found = sections()
    assert len(found) > 50
    silent = [
        f"{section.__module__}.{section.__qualname__}.{key}"
        for section in found
        for key, field in section.model_fields.items()
        if key != "name" and not field.description
    ]
    assert silent == []
    rules = ("extra", "forbid"), ("frozen", True), ("strict", True)
    assert [one for one in found for key, value in rules if one.model_config.get(key) != value] == []
