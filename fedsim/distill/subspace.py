"""Directions that private vectors are projected onto before they are clipped: fewer coordinates hold less noise.

    u = Pᵀ (ψ(x) − a)        P: d × d′ with orthonormal columns, the same for real and synthetic images

    random     P from a QR decomposition of Gaussian columns: keeps about d′/d of ‖ψ(x) − a‖², whatever the data
    previous   P the main right-singular vectors of ψ(s) − a over public images s: what was released a round before

The noise in a coordinate does not depend on d′, so its norm falls by √(d′/d); what is lost is what lies outside P. A
vector is clipped after it was projected, so the sensitivity is that of any other vector. `previous` costs nothing by
itself, as what it looks at was paid for; but it needs a second round, and two rounds of M releases need √2 times the
noise of one round at the same ε. Compare at equal ε.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from fedsim.types import UserError


def basis(
    dimension: int, width: int, rng: torch.Generator, rows: Float[Tensor, "n d"] | None = None
) -> Float[Tensor, "d e"]:
    """`dimension` orthonormal columns: the main directions of `rows`, completed at random where these are too few."""
    if dimension > width:
        raise UserError(
            f"privacy.dimension: got {dimension}; vectors have {width} coordinates; valid: 1 to {width}, or "
            "subspace: none"
        )
    columns = torch.randn((width, dimension), generator=rng, dtype=torch.float64)
    if rows is not None:
        main = torch.linalg.svd(rows.double().cpu(), full_matrices=False).Vh[:dimension].T
        columns = torch.cat([main, columns[:, main.shape[1] :]], dim=1)
    return torch.linalg.qr(columns).Q.float()
