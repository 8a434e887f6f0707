"""Where a working client says how far it is. The engine sets the listener; without one nothing is said."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

Listener = Callable[[int, int, int, float | None], None]
"""(client, iteration, of how many, loss)."""

LISTENER: ContextVar[Listener | None] = ContextVar("fedsim_progress", default=None)
