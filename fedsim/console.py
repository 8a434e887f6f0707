"""Progress on stderr: live bars on a terminal, plain lines elsewhere. Nothing of it enters a result."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Terminal:
    """Says what a run does: rounds, clients, iterations, losses, and how long it will take."""

    def __init__(self) -> None:
        self._console = RichConsole(stderr=True, highlight=False)
        self._live = sys.stderr.isatty()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        )
        times = (TextColumn("{task.fields[note]}"), TimeElapsedColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, *times, console=self._console, disable=not self._live, transient=True)
        self._tasks: dict[str, TaskID] = {}
        self._spoken: dict[str, float] = {}
        self._round = (0, 0, 0, 0)
        self._started = time.monotonic()
        self._first_round = 0

    def __enter__(self) -> Terminal:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """One line."""
        self._console.print(text, soft_wrap=True, markup=False)

    def bar(self, name: str, done: int, total: int, note: str = "") -> None:
        """Move a bar; without a terminal, a line every 10 seconds at most."""
        if self._live:
            if name not in self._tasks:
                self._tasks[name] = self._progress.add_task(name, total=total, note=note)
            self._progress.update(self._tasks[name], completed=done, total=total, note=note)
            if done >= total:
                self._progress.remove_task(self._tasks.pop(name))
        elif time.monotonic() - self._spoken.get(name, self._started) > 10:
            self._spoken[name] = time.monotonic()
            self.say(f"  {name}: {done}/{total} {note}".rstrip())

    def steps(self, name: str) -> Callable[[int], None]:
        """What counts steps behind the bar of `name`; without a terminal, a line every 10 seconds at most."""
        taken, spoken = 0, time.monotonic()

        def more(steps: int) -> None:
            nonlocal taken, spoken
            taken += steps
            if name in self._tasks:
                self._progress.update(self._tasks[name], note=f"{taken} steps")
            elif not self._live and time.monotonic() - spoken > 10:
                spoken = time.monotonic()
                self.say(f"  {name}: {taken} steps")

        return more

    # --- the round loop's Console ---

    def client_progress(self, client: int, iteration: int, iterations: int, loss: float | None) -> None:
        """How far a client is."""
        self.bar(f"client {client}", iteration, iterations, "" if loss is None else f"loss {loss:.4f}")

    def round_started(self, number: int, rounds: int, clients: Sequence[int]) -> None:
        """A round begins."""
        self._first_round = self._first_round or number
        self._round = (number, rounds, len(clients), 0)
        self.say(f"round {number}/{rounds}: {len(clients)} clients asked")
        self.bar(f"round {number}/{rounds}", 0, len(clients))

    def client_done(self, client: int, outcome: str) -> None:
        """A reply came."""
        number, rounds, asked, done = self._round
        self._round = (number, rounds, asked, done + 1)
        if f"client {client}" in self._tasks:
            self._progress.remove_task(self._tasks.pop(f"client {client}"))
        if outcome != "done":
            self.say(f"  client {client} {outcome}")
        self.bar(f"round {number}/{rounds}", done + 1, asked)

    def round_finished(self, number: int, metrics: dict[str, float]) -> None:
        """A round is stored."""
        _, rounds, _, _ = self._round
        each = (time.monotonic() - self._started) / (number - self._first_round + 1)
        left = f", about {each * (rounds - number):.0f} s left" if number < rounds else ""
        plain = [one for one in metrics.items() if one[0] != "accuracy" and "." not in one[0]]  # not verdicts
        shown = ", ".join(f"{name} {value:.4g}" for name, value in plain)
        more = f" ({shown})" if shown else ""
        self.say(f"round {number}/{rounds}: accuracy on val {metrics['accuracy']:.4f}{more}{left}")
