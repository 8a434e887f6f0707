"""The import hook of the test run: calls of the product are checked against the shapes that their signatures name.

In the place of jaxtyping's own hook, which wraps every function, makes the wrapper anew whenever a closure is defined
and looks at every call: it took as long as what it looked at. Here a function whose signature names no shape stays as
it is, and a call is looked at (by jaxtyping and `tests.checked`) when its arguments or its result are of kinds that
the function has not been seen with: types, element types, shapes. No signature of this project depends on more.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import sys
from collections.abc import Callable, Sequence
from functools import update_wrapper, wraps
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any

from jaxtyping import jaxtyped

from tests import checked, names_a_shape

PACKAGES = ("fedsim", "attacks", "defenses")
_NAME = "__signature_checked__"
_WORD = re.compile(r"[A-Za-z_]\w*")
_plans: dict[tuple[str, CodeType], _Plan | None] = {}


class _Plan:
    """What is known of one function, however often it is defined: the kinds of arguments and results that passed."""

    def __init__(self) -> None:
        self.passed: dict[Any, set[Any]] = {}

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        __tracebackhide__ = True
        asked = (tuple(map(kind, args)), tuple([(name, kind(value)) for name, value in named.items()]))
        results = self.passed.get(asked)
        if results is None:
            result = jaxtyped(function, typechecker=checked)(*args, **named)
            self.passed.setdefault(asked, set()).add(kind(result))
            return result
        result = function(*args, **named)
        given = kind(result)
        if given not in results:
            jaxtyped(_Returning(function, result), typechecker=checked)(*args, **named)
            results.add(given)
        return result


def kind(value: Any) -> Any:
    """What a signature can say of a value; of long collections, what it says of three of them."""
    of = type(value)
    shape = getattr(value, "shape", None)
    if shape is not None:
        return of, getattr(value, "dtype", None), tuple(shape) if isinstance(shape, Sequence) else None
    if of is tuple or of is list:
        some = value if len(value) <= 8 else (value[0], value[len(value) // 2], value[-1])
        return of, len(value), tuple(map(kind, some))
    if of is dict:
        first = next(iter(value.items()), ())
        return of, len(value), tuple(map(kind, first))
    return (of, value) if of is str else of


class _Returning:
    """Stands for a function that has been called: its signature, its names, its result."""

    def __init__(self, function: Callable[..., Any], result: Any) -> None:
        update_wrapper(self, function)
        self.__globals__, self._result = function.__globals__, result

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self._result


def signature_checked(given: Any) -> Any:
    """The function or data class, with its calls checked; itself if no shape is in its signature."""
    if isinstance(given, type):
        if dataclasses.is_dataclass(given) and "__init__" in vars(given):
            setattr(given, "__init__", signature_checked(vars(given)["__init__"]))  # noqa: B010
        return given
    key = (given.__module__, given.__code__)
    if key not in _plans:
        _plans[key] = _Plan() if _has_shapes(given) else None
    plan = _plans[key]
    if plan is None:
        return given

    @wraps(given)
    def call(*args: Any, **named: Any) -> Any:
        __tracebackhide__ = True
        return plan.call(given, args, named)

    return call


def _has_shapes(function: Callable[..., Any]) -> bool:
    """Whether an annotation names a shape, itself or through a name that its module gives to one."""
    for hint in function.__annotations__.values():
        said = hint if isinstance(hint, str) else repr(hint)
        if names_a_shape(said):
            return True
        if any(names_a_shape(repr(function.__globals__.get(word))) for word in _WORD.findall(said)):
            return True
    return False


class _Loader(SourceFileLoader):
    """Puts the check below all other decorators of a function, and above those of a class."""

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> CodeType:  # type: ignore[override]
        tree = ast.parse(data, path)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                node.decorator_list.append(_decorator(node))
            elif isinstance(node, ast.ClassDef) and node.decorator_list:
                node.decorator_list.insert(0, _decorator(node))
        return compile(tree, path, "exec", dont_inherit=True, optimize=_optimize)

    def path_stats(self, path: str) -> Any:
        raise OSError(f"{path} is compiled for this process alone: other processes have no such decorator")

    def exec_module(self, module: ModuleType) -> None:
        setattr(module, _NAME, signature_checked)
        super().exec_module(module)


def _decorator(node: ast.stmt) -> ast.expr:
    return ast.copy_location(ast.Name(_NAME, ast.Load()), node)


class _Finder(MetaPathFinder):
    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in PACKAGES:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def install() -> None:
    """From now on the product's modules are imported with their calls checked.

    Raises:
        RuntimeError: one of them is imported already.
    """
    early = sorted(name for name in PACKAGES if name in sys.modules)
    if early:
        raise RuntimeError(f"{', '.join(early)}: imported before the hook that checks their calls")
    sys.meta_path.insert(0, _Finder())
