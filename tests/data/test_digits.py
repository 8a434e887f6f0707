"""scikit-learn's digits: scaled, split once for all, and read without scikit-learn's reader."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from fedsim.data import digits
from fedsim.types import UserError


def test_digits_are_scaled_and_split_once_for_all() -> None:
    from sklearn.datasets import load_digits

    data = digits.Digits(digits.Digits.Config()).load()
    assert (len(data.train), len(data.test), data.image_shape) == (1438, 359, (1, 8, 8))
    assert data.test.counts(10).min() >= 34
    both = torch.cat([data.train.pixels, data.test.pixels]).flatten(1).numpy()
    levels, labels = load_digits(return_X_y=True)
    expected = [[round(v * 255 / 16) for v in row] for row in np.asarray(levels).tolist()]
    assert sorted(map(tuple, both.tolist())) == sorted(map(tuple, expected))
    labelled = list(
        zip(map(tuple, both.tolist()), [*data.train.labels.tolist(), *data.test.labels.tolist()], strict=True)
    )
    assert sorted(labelled) == sorted(zip(map(tuple, expected), labels.tolist(), strict=True))
    scaled = data.train.pixels.double() / 255
    assert data.mean == pytest.approx((scaled.mean().item(),), abs=5e-5)
    assert data.std == pytest.approx((scaled.std(correction=0).item(),), abs=5e-5)
    assert data.fingerprint() == digits.Digits(digits.Digits.Config(val=0.3)).load().fingerprint()


def test_digits_that_scikit_learn_lacks_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(digits, "_read", vars(digits._read)["__wrapped__"])  # whatever was read before
    (tmp_path / "sklearn").mkdir()
    (tmp_path / "sklearn" / "__init__.py").touch()
    found = importlib.util.spec_from_file_location("sklearn", tmp_path / "sklearn" / "__init__.py",
                                                   submodule_search_locations=[str(tmp_path / "sklearn")])  # fmt: skip
    missing = re.escape(str(tmp_path / "sklearn" / "datasets" / "data" / "digits.csv.gz"))
    version = re.escape(importlib.metadata.version("scikit-learn"))
    for spec, line in (
        (found, rf"scikit-learn {version} has no {missing}; install it whole: pip install --force-reinstall"),
        (None, "scikit-learn, which holds them, is not installed; pip install scikit-learn"),
    ):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, spec=spec: spec)
        with pytest.raises(UserError, match=rf"^data\.name=digits: {line}") as refused:
            digits.Digits(digits.Digits.Config()).load()
        assert "\n" not in str(refused.value)
