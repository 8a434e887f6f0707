"""iDLG: the label is read off, the image found; a batch is refused."""

from __future__ import annotations

import pytest
import torch

from attacks.dlg import DLG
from attacks.dlg import Config as DLGConfig
from attacks.idlg import IDLG, Config
from fedsim.audit.image_distances import mean_squared_error
from fedsim.audit.types import Release
from fedsim.seeding import stream
from fedsim.types import UserError
from tests.attacks.leaks import leak


@pytest.mark.parametrize("rule", ["sign", "row_sum"])
def test_the_image_is_recovered(rule):
    made = leak(3)
    found = IDLG(Config(iterations=200, history=60, rule=rule)).reconstruct(made.observed, None, stream(3))
    assert torch.equal(found.labels, made.labels)
    assert (mean_squared_error(found.images[:, 0], made.pixels[:, 0]) < 1e-3).all()


def test_it_is_dlg_with_the_label_given():
    made = leak(2)
    ours = IDLG(Config(iterations=6)).reconstruct(made.observed, None, stream(3))
    theirs = DLG(DLGConfig(iterations=6)).reconstruct(made.observed, made.labels, stream(3))
    assert torch.equal(ours.images, theirs.images)


def test_several_records_are_refused():
    made = leak(1, records=2)
    with pytest.raises(UserError, match="gradients of 2 records"):
        IDLG(Config()).reconstruct(made.observed, None, stream(3))


def test_it_says_who_attacks():
    assert IDLG.threat.position == "server"
    assert IDLG.threat.sees == {Release.GRADIENT}
