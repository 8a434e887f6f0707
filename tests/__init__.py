"""The runtime checker of the test run: beartype on every signature that names the shape of an array.

Plain types are basedpyright's business. An int is accepted for a float, as Python's typing has it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))
_SHAPE = re.compile(r"\b(Float|Int|Integer|UInt|Bool|Num|Real|Shaped)\d*\[")
"""jaxtyping's types; a signature without one is not looked at."""
_checkers: dict[tuple[Any, ...], Callable[..., Any]] = {}


def names_a_shape(annotation: str) -> bool:
    """Whether one of jaxtyping's types is in it."""
    return _SHAPE.search(annotation) is not None


def checked(stub: Callable[..., Any]) -> Callable[..., Any]:
    """What checks a call against the signature of `stub`, made when the first call comes.

    jaxtyping hands over two empty functions for one that is called: the first has its parameters and returns Any; the
    second has one parameter more, which it returns, and the annotation of the return. Parameters are checked by the
    first alone: jaxtyping remembers the sizes of their dimensions until the second has looked at the result.

    A checker takes milliseconds to make: most functions are never called by one process, and a closure is defined anew
    by each call of the function around it, always with the same signature.
    """
    if not names_a_shape(repr(stub.__annotations__)):
        return stub
    result = stub.__annotations__.get("return", Any)
    if result is not Any and "~" not in repr(result):  # a type variable is solved with the parameters
        return _returned(stub)
    checker: Callable[..., Any] | None = None

    def check(*words: Any, **named: Any) -> Any:
        nonlocal checker
        if checker is None:
            code = stub.__code__
            counts = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags, code.co_consts
            key = (stub.__module__, stub.__qualname__, *counts, len(stub.__defaults__ or ()))
            key += (tuple(stub.__kwdefaults__ or ()), repr(stub.__annotations__))
            checker = _checkers[key] = _checkers.get(key) or _beartype(stub)
        return checker(*words, **named)

    return check


def _returned(stub: Callable[..., Any]) -> Callable[..., Any]:
    """What checks the result alone: the last of the parameters that are given by name."""
    code, checker = stub.__code__, None
    name = code.co_varnames[code.co_argcount + code.co_kwonlyargcount - 1]

    def check(*_: Any, **named: Any) -> Any:
        nonlocal checker
        if checker is None:
            hint = stub.__annotations__["return"]
            key = ("return", stub.__module__, stub.__qualname__, repr(hint))
            checker = _checkers[key] = _checkers.get(key) or _beartype(_identity(stub, hint))
        return checker(named[name])

    return check


def _identity(stub: Callable[..., Any], hint: Any) -> Callable[[Any], Any]:
    """Returns what it is given; its annotation is looked up where that of `stub` is."""

    def value(given: Any) -> Any:
        return given

    value.__module__, value.__qualname__ = stub.__module__, stub.__qualname__
    value.__annotations__ = {"return": hint}
    return value
