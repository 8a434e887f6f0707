"""Distances in pixels, thresholds chosen elsewhere, and rows that would tell the target by their counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attacks.lira import Config, LiRA
from attacks.membership_statistics import Laboratory, best_threshold, memberships
from fedsim.audit.statistics.auc import auc
from fedsim.audit.view import Released, Shadow, Source
from fedsim.seeding import Streams, numpy_stream
from fedsim.types import UserError
from tests.attacks.small_audit import Audit, publish
from tests.reference.membership import complementary


def test_copied_images_are_nearest_and_distances_are_those_of_pixels(tmp_path):
    audit = Audit(tmp_path, publish(5))
    config = Config(statistics=("nn_pixels",))
    view = audit.view(0, LiRA(config).threat)
    found = Laboratory.of(view, config, Streams(0))
    released = audit.released(4, view.threat)
    values, images = found.measure("nn_pixels", released), found.reader.images(released)
    for i in range(40):
        of_class = images.labels == audit.candidates.labels[i]
        gaps = images.pixels[of_class].double() / 255 - audit.candidates.pixels[i].double() / 255
        assert values[i] == pytest.approx(-float(gaps.square().sum((1, 2, 3)).sqrt().min()), abs=1e-12)
    assert auc(values[values == 0], values[~audit.members[4]]) == 1.0
    assert (values == 0).sum() == 10


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=30))
def test_no_threshold_is_better_than_the_best(rows):
    scores, members = np.array([float(s) for s, _ in rows]), np.array([m for _, m in rows])
    if members.all() or not members.any():
        return

    def advantage(threshold: float) -> float:
        above = scores > threshold
        return float(above[members].mean() - above[~members].mean())

    best = best_threshold(scores, members)
    assert np.isfinite(best)
    assert advantage(best) >= max(advantage(t) for t in np.arange(-1.5, 8)) - 1e-9


def test_every_record_is_in_half_of_the_rows():
    rows = complementary(4, np.arange(8) % 2, numpy_stream(0))
    released = Released(Source(Path(), 0, dict), LiRA(Config()).threat, "no run")
    shadows = [Shadow(row, released) for row in rows]
    for target in range(8):
        kept = [shadow for row, shadow in enumerate(shadows) if row // 2 != target // 2]
        assert (memberships(kept, 8).sum(0) == 3).all()
        with_complement = [shadow for row, shadow in enumerate(shadows) if row != target]
        with pytest.raises(UserError, match="a record is in 3 to 4 of 7"):
            memberships(with_complement, 8)
    with pytest.raises(UserError, match="got 8 records for 9 candidates"):
        memberships(shadows, 9)
    with pytest.raises(UserError, match="audit rows of at least 6"):
        memberships(shadows[:2], 8)


def test_sets_of_all_rounds_or_of_all_clients(tmp_path):
    audit = Audit(tmp_path, publish(3))
    folder = tmp_path / "row_0" / "synthetic"
    (folder / "round_002").mkdir()
    first = folder / "round_001" / "client_0000.safetensors"
    for name in ("client_0000", "client_0001", "client_0002"):
        (folder / "round_002" / f"{name}.safetensors").write_bytes(first.read_bytes())
    for release, count in (("client_sets", 2), ("final_set", 3)):
        config = Config(statistics=("nn_pixels",), release=release)
        view = audit.view(0, LiRA(config).threat)
        assert len(Laboratory.of(view, config, Streams(0)).reader.images(view.released)) == count * 6
