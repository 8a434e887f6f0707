"""Settings of all property tests, for which no example is too slow; and the order of files that run side by side."""

from __future__ import annotations

import pytest
from hypothesis import settings

from tests import signatures

signatures.install()  # before anything imports the product

settings.register_profile("fedsim", deadline=None)
settings.load_profile("fedsim")

LONGEST = (
    "test_experiment",
    "test_auditing",
    "test_superlink",
    "test_experiment_central",
    "test_experiment_faults",
    "test_ray",
)
"""Files that begin first, so that no worker is left with one of them when the others have nothing to do."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `-n 2 --dist loadfile --no-loadscope-reorder` files are begun in this order."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))
