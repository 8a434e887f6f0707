"""Where and how a run is computed, and what `auto` stands for on this machine."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from fedsim.config import Section
from fedsim.models.execution import Execution, Precision, has_bfloat16
from fedsim.types import UserError


class Compute(Section):
    """Where and how it is computed; `auto` is resolved once, before the config is hashed and stored."""

    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """auto: the first GPU if there is one."""
    precision: Literal["auto"] | Precision = "auto"
    """Format of products and activations; auto: float32. bfloat16 needs a CPU or GPU that computes in it."""
    compile: bool | Literal["auto"] = "auto"
    """Run networks as compiled graphs; auto: where a compiler is and a process has work enough to pay for it."""
    chunk: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Images per forward and backward pass, 0: whole batches; auto: 16 on a CPU (its cache), 0 on a GPU."""
    channels_last: bool | Literal["auto"] = "auto"
    """Memory format of images; auto: where networks are compiled, and on a GPU."""
    ensemble: Literal["auto", "loop", "vmap"] = "auto"
    """Networks of an evaluation: one after another, or stacked, uncompiled; auto: vmap on a GPU without batch norm."""
    threads: int = Field(default=1, ge=1, le=1024)
    """torch threads of each process; other counts give other sums."""
    workers: int = Field(default=1, ge=0, le=1024)
    """Client processes of the local engine; no influence on the result. 0: none, clients work in the run's own process
    (for a debugger, and for sweeps of small runs), where one that never answers cannot be given up."""

    def execution(self) -> Execution:
        """How networks are run; every `auto` must be resolved."""
        values: Any = (self.chunk, self.compile, self.precision, self.channels_last, self.ensemble)
        if "auto" in values:
            raise ValueError("compute holds an unresolved auto: workload.settled resolves it")
        return Execution(*values)


def settle(compute: Compute) -> Compute:
    """Replace `auto` by what it means on this machine; workload.py does it where work and network count."""
    device, chunk = compute.device, compute.chunk
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"compute.device: '{device}' was asked for and torch sees no GPU; valid here: auto, cpu")
    elif device.startswith("cuda:") and int(device[5:]) >= torch.cuda.device_count():
        raise UserError(
            f"compute.device: '{device}' is not there; valid: cuda:0 to cuda:{torch.cuda.device_count() - 1}"
        )
    if chunk == "auto":
        chunk = 16 if device == "cpu" else 0
    precision = "float32" if compute.precision == "auto" else compute.precision
    if precision == "bfloat16" and not has_bfloat16(device):
        raise UserError(f"compute.precision: bfloat16 is not computed by this machine's {device}; valid here: float32")
    update = {"device": device, "chunk": chunk, "precision": precision}
    return compute.model_copy(update=update)
