"""Rows of all clients: in order, each with its owner, as networks see them."""

from __future__ import annotations

from dataclasses import replace

import torch

from fedsim.federated.upload_rows import rows_of
from tests.reference import defences as reference


def test_rows_lie_in_the_order_of_the_uploads() -> None:
    here = reference.setting()
    uploads = [reference.upload(4, (1, 2, 0, 0)), reference.upload(9, (0, 0, 0, 0)), reference.upload(2, (0, 0, 1, 1))]
    rows = rows_of(here, uploads)
    assert rows.clients == (4, 9, 2)
    assert rows.owners.tolist() == [0, 0, 0, 2, 2]
    assert rows.labels.tolist() == [0, 1, 1, 2, 3]
    pixels = torch.cat([reference.images_of(one) for one in uploads])
    assert torch.equal(rows.inputs, here.normalise(pixels))
    assert rows.held(4).tolist() == [[True, True, False, False], [False] * 4, [False, False, True, True]]
    values = torch.tensor([1.0, 2, 4, 8, 16], requires_grad=True)
    means = rows.means(values, 4)
    assert means.tolist() == [[1, 3, 0, 0], [0, 0, 0, 0], [0, 0, 8, 16]]
    (gradient,) = torch.autograd.grad(means[0, 1], values)
    assert gradient.tolist() == [0, 0.5, 0.5, 0, 0]
    assert rows.maxima(values.detach(), 4).tolist() == [[1, 4, 0, 0], [0, 0, 0, 0], [0, 0, 8, 16]]
    some = rows.take(rows.owners != 0)
    assert (some.clients, some.labels.tolist()) == ((4, 9, 2), [2, 3])


def test_a_stored_image_that_holds_four_is_four_rows_and_soft_or_weighted_labels_are_targets() -> None:
    here, one = reference.setting(), reference.upload(0, (1, 1, 0, 0))
    assert one.synthetic is not None
    held = rows_of(here, [replace(one, synthetic=replace(one.synthetic, formation=2))])
    assert held.labels.tolist() == [0] * 4 + [1] * 4
    assert len(held.inputs) == 8
    soft = torch.tensor([[0.5, 0.5, 0, 0], [0, 1, 0, 0]], dtype=torch.float16)
    rows = rows_of(here, [replace(one, synthetic=replace(one.synthetic, soft=soft))])
    assert rows.targets.tolist() == soft.tolist()
    weighty = replace(one, synthetic=replace(one.synthetic, weights=torch.tensor([1.0, 3.0])))
    assert rows_of(here, [weighty]).targets.tolist() == [[0.5, 0, 0, 0], [0, 1.5, 0, 0]]
