"""The runtime checker of the test run: beartype, with an int accepted for a float as Python's typing has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))
_checkers: dict[tuple[Any, ...], Callable[..., Any]] = {}


def checked(stub: Callable[..., Any]) -> Callable[..., Any]:
    """What checks a call against the signature of `stub`, made when the first call comes.

    jaxtyping hands over an empty function with the signature of the one that is called. A checker takes milliseconds
    to make: most functions are never called by one process, and a closure is defined anew by each call of the function
    around it, always with the same signature.
    """
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
