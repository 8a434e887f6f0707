"""The import hook of the test run: calls of the product are checked against the shapes that their signatures name.

In the place of jaxtyping's own hook, which wraps every function, makes the wrapper anew whenever a closure is defined
and looks at every call: it took as long as what it looked at. Here a function whose signature names no shape stays as
it is, and a call is looked at (by jaxtyping and `tests.checked`) when its arguments or its result are of kinds that
the function has not been seen with: types, element types, shapes. No signature of this project depends on more.

beartype looks at one item of a list, at random, and at the first of a dict. Where their items are of several kinds, the
call is looked at again with each of them in the place of all. (Of a tuple it looks at every item; no signature here has
one of any length whose items have shapes.)
"""

from __future__ import annotations

import ast
import dataclasses
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from copy import copy
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
_plans: dict[tuple[str, str, CodeType], _Plan | None] = {}


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
        else:
            result = function(*args, **named)
            if kind(result) in results:
                return result
            jaxtyped(_Returning(function, result), typechecker=checked)(*args, **named)
        for some, called, given in _each(args, named, result):
            jaxtyped(_Returning(function, given), typechecker=checked)(*some, **called)
        self.passed.setdefault(asked, set()).add(kind(result))
        return result


def kind(value: Any) -> Any:
    """What a signature can say of a value; of collections, what it says of every item."""
    of = type(value)
    shape = getattr(value, "shape", None)
    if shape is not None:
        return of, getattr(value, "dtype", None), tuple(shape) if isinstance(shape, Sequence) else None
    if of is tuple or of is list or isinstance(value, dict):
        kinds = tuple(map(kind, value.values() if isinstance(value, dict) else value))
        names = frozenset(map(type, value)) if isinstance(value, dict) else None
        return of, len(kinds), names, kinds if len(set(kinds)) > 1 else kinds[:1]
    return (of, value) if of is str else of


def _each(args: tuple[Any, ...], named: dict[str, Any], result: Any) -> Iterator[tuple[Any, dict[str, Any], Any]]:
    """The call once for each place in its longest collection of several kinds, which only the item there is left in."""
    seen = set()
    for place in range(max(map(_places, (args, tuple(named.values()), result)))):
        call = _turned(args, place), {name: _turned(value, place) for name, value in named.items()}
        given = _turned(result, place)
        if (found := kind((*call, given))) not in seen:
            seen.add(found)
            yield *call, given


def _places(value: Any) -> int:
    """Length of the longest list or dict of several kinds in a value; 0: it has none."""
    if type(value) not in (list, tuple) and not isinstance(value, dict):
        return 0
    items = list(value.values() if isinstance(value, dict) else value)
    own = len(items) if type(value) is not tuple and len(set(map(kind, items))) > 1 else 0
    return max([own, *map(_places, items)])


def _turned(value: Any, place: int) -> Any:
    """The value with one item of each list in the place of all, and one item of each dict."""
    if type(value) is tuple:
        return tuple(_turned(one, place) for one in value)
    if type(value) is list and value:
        return [_turned(value[place % len(value)], place)] * len(value)
    if isinstance(value, dict) and value:
        name, one = list(value.items())[place % len(value)]
        only = copy(value)
        only.clear()
        only[name] = _turned(one, place)
        return only
    return value


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
    key = (given.__module__, given.__qualname__, given.__code__)  # two data classes' __init__ can be of equal code
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
