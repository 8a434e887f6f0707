"""The compact form gives what the two loops over the pairs give, also after pairs were dropped."""

from __future__ import annotations

import numpy as np
import torch

from attacks.inverse_hessian import InverseHessian
from fedsim.seeding import stream
from tests.reference.gradient_leakage import two_loops


def test_direction_is_that_of_the_two_loops_row_by_row():
    rng, rows, size, length = stream(0), 3, 6, 4
    curvature = torch.randn(rows, size, size, generator=rng, dtype=torch.float64)
    curvature = curvature @ curvature.mT + 0.1 * torch.eye(size)
    ours = InverseHessian(torch.zeros(rows, size, dtype=torch.float64), length)
    pairs: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(rows)]
    for turn in range(11):
        step, gradient = torch.randn(2, rows, size, generator=rng, dtype=torch.float64)
        change = (curvature @ step[..., None])[..., 0]
        if turn % 3 == 1:
            change[2] = -change[2]  # a row that curves downwards
        moved = torch.tensor([True, turn % 2 == 0, True])
        found = ours.learn(step, change, gradient, moved)
        for row in range(rows):
            if moved[row] and step[row] @ change[row] > 0:
                pairs[row] = [*pairs[row], (step[row].numpy(), change[row].numpy())][-length:]
            expected = -gradient[row]
            if pairs[row]:
                expected = torch.from_numpy(two_loops(pairs[row], gradient[row].numpy()))
            torch.testing.assert_close(found[row], expected, rtol=1e-8, atol=1e-8)
        if turn == 7:
            ours.forget(torch.tensor([1]))
            pairs[1] = []


def test_rows_that_are_kept_go_on_as_before():
    rng = stream(1)
    step, gradient = torch.randn(2, 3, 5, generator=rng)
    everyone = torch.ones(3, dtype=torch.bool)
    whole = InverseHessian(torch.zeros(3, 5), 2)
    part = InverseHessian(torch.zeros(3, 5), 2)
    for hessian in (whole, part):
        hessian.learn(step, 2 * step, gradient, everyone)
    rows = torch.tensor([0, 2])
    part.keep(rows)
    again = torch.randn(3, 5, generator=rng)
    expected = whole.learn(again, 3 * again, gradient, everyone)[rows]
    torch.testing.assert_close(part.learn(again[rows], 3 * again[rows], gradient[rows], everyone[rows]), expected)
