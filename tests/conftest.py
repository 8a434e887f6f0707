"""What all tests stand on: checked signatures, settings of property tests, disks, the order of files side by side."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests import signatures

signatures.install()  # before anything imports the product
gc.disable()  # modules are here to stay

settings.register_profile("fedsim", deadline=None, max_examples=25)
settings.register_profile("many", deadline=None, max_examples=100)  # HYPOTHESIS_PROFILE=many, where none is given
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fedsim"))

LONGEST = (
    "test_experiment",
    "test_auditing",
    "test_superlink",
    "test_ray",
    "test_experiment_central",
    "test_auditing_canaries",
    "test_backdoors",
    "test_every_method",
    "test_execution",
    "test_local",
    "test_experiment_faults",
)
"""Files that begin first, so that no worker is left with one of them when the others have nothing to do."""


def pytest_collection_finish() -> None:
    """What has been imported is not looked through again: that was a tenth of all the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _disks_are_not_waited_for() -> Iterator[None]:
    """Nothing here cuts the power: in this process a descriptor that is synchronised is only asked whether it is open.

    A run writes dozens of files, and a disk takes milliseconds for each. Processes that are killed have the real call.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `-n 2 --dist loadfile --no-loadscope-reorder` files are begun in this order."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))
