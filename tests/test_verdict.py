"""What an exception means to the user."""

from __future__ import annotations

import errno

import pytest

from fedsim.types import RunFailed, UserError
from fedsim.verdict import FAILED, WRONG_INPUT, verdict


@pytest.mark.parametrize(
    ("error", "text", "code"),
    [
        (UserError("seed: got\n'x'"), "seed: got 'x'", WRONG_INPUT),
        (RunFailed("too few"), "the run failed: too few", FAILED),
        (OSError(errno.ENOSPC, "full", "/a"), "cannot use /a: No space left on device; what was stored", WRONG_INPUT),
        (OSError(errno.EIO, "odd"), "OSError: [Errno 5] odd", FAILED),
        (KeyError("x\ntrace"), "KeyError: 'x\\ntrace' (--debug shows where)", FAILED),
    ],
)
def test_one_line_and_a_code(error: Exception, text: str, code: int) -> None:
    said, given = verdict(error)
    assert said.startswith(text)
    assert "\n" not in said
    assert given == code


def test_a_long_text_keeps_its_ends() -> None:
    said, _ = verdict(UserError("a" * 300 + "b" * 300))
    assert len(said) < 380
    assert said.startswith("a" * 220)
    assert said.endswith("b" * 150)
