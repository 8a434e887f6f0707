"""Names shared by every room: the user's error, and what a model's weights are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    Params = dict[str, Tensor]
else:  # torch takes a second to import, and the catalog and its errors do without
    Params = dict[str, Any]
"""Parameters and buffers of one network by their dotted name, as in `state_dict()`."""


class RunFailed(RuntimeError):  # noqa: N818 - says what happened to the run
    """The run cannot go on though the input was right: exit code 1."""


class UserError(ValueError):
    """The input is wrong, not the program.

    Its text is one line: what came, what is valid, what to do. The command line prints it and exits with 2.
    """
