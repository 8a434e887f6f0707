"""`python -m attacks.NAME RUN_OR_CONFIG …`: one attack on its own, on a finished run or in an audit's file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn


def alone(file: str, words: Sequence[str] | None = None) -> NoReturn:
    """`fedsim audit run` with the attack of that file and no other; ends the process with its exit code."""
    from fedsim.cli import main

    given = sys.argv[1:] if words is None else words
    sys.exit(main(["audit", "run", *given, "--attack", Path(file).stem]))
