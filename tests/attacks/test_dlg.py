"""DLG finds image and label of a small sigmoid network; of a batch up to its order."""

from __future__ import annotations

import torch

from attacks.dlg import DLG, Config
from attacks.labels import multiset_accuracy
from fedsim.audit.image_distances import match, mean_squared_error
from fedsim.data.transforms import Normalise
from fedsim.seeding import stream
from tests.attacks.leaks import CLASSES, leak

SETTINGS = Config(iterations=300, restarts=2, history=60)


def test_image_and_label_of_each_of_several_gradients():
    made = leak(3, own=True, normalise=Normalise((0.4,), (0.3,)))
    found = DLG(SETTINGS).reconstruct(made.observed, None, stream(3))
    assert torch.equal(found.labels, made.labels)
    assert (found.gradient_loss < 1e-6).all()
    assert (mean_squared_error(found.images[:, 0], made.pixels[:, 0]) < 1e-3).all()


def test_two_records_come_back_in_any_order():
    made = leak(1, records=2)
    found = DLG(SETTINGS).reconstruct(made.observed, None, stream(3))
    assert multiset_accuracy(found.labels, made.labels, CLASSES).tolist() == [1.0]
    order = match(found.images[0], made.pixels[0])
    assert (mean_squared_error(found.images[0], made.pixels[0][order]) < 1e-3).all()
    assert torch.equal(found.labels[0], made.labels[0][order])


def test_the_same_stream_gives_the_same_images():
    made = leak(1)
    short = DLG(Config(iterations=5))
    first, second = (short.reconstruct(made.observed, None, stream(7)) for _ in range(2))
    assert torch.equal(first.images, second.images)
