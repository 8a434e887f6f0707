"""Owners condensed together: the literal loop for each of them, and what each would have made alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.data.augment import Config as DSAConfig
from fedsim.distill.base import PIECE, Task
from fedsim.distill.cohort import condense_together, join_states, join_tasks, split_state
from fedsim.distill.descent import Images
from fedsim.distill.distribution.dm import Config, DistributionMatching
from fedsim.distill.drive import condense
from fedsim.distill.pool import PoolConfig
from fedsim.distill.real import SLICE
from fedsim.seeding import Streams, stream
from fedsim.types import UserError
from tests.reference import dm as reference

OWNERS = ((5, 0, 1, 3), (0, 4, 0, 2), (1, 1, 1, 1), (0, 0, 7, 0))
"""Real images of each class at each owner; no class is everywhere."""
ROUND = Streams(0, ("round", 1, "networks"))
POOL = PoolConfig(size=3, shared=True)
BOTH = ("embedding", "logits")


def tasks(chunk: int = 0, *, norm: Any = "instance", around: bool = False) -> list[Task]:
    network = reference.convnet(norm=norm)
    return [
        replace(
            reference.task(network, counts, chunk=chunk, around=around, real=reference.images(counts, seed=owner)),
            shared=ROUND,
        )
        for owner, counts in enumerate(OWNERS)
    ]


def own(owner: int) -> Streams:
    return Streams(0, ("client", owner))


def method(**changes: Any) -> DistributionMatching:
    plain: dict[str, Any] = {"ipc": 2, "batch_real": 0, "networks": POOL, "match": BOTH, "lr": 0.3}
    return DistributionMatching(Config(**plain | changes))


@pytest.mark.parametrize("chunk", [0, 1, 3, 4, 100])
@pytest.mark.parametrize("augment", [None, DSAConfig()])
def test_a_step_is_the_papers_loop_for_every_owner(chunk: int, augment: DSAConfig | None) -> None:
    """Segments (owner, class) against a loop over owners, classes and images; DSA draws are per class, shared."""
    joint, alone = join_tasks(tasks(chunk)), tasks()
    condenser = method(augment=augment)
    prepared: Any = condenser.prepare(joint, stream(9))
    state = join_states([condenser.init(task, prepared, stream(owner)) for owner, task in enumerate(alone)])
    before = state.pixels.clone()
    drawn = condenser.source.draw(joint, prepared, stream(2), 0)
    metrics = condenser.step(joint, prepared, state, stream(2))
    look = reference.looking(joint.network, drawn.params, BOTH)
    first = 0
    for owner, task in enumerate(alone):
        rows = slice(first, first := first + int(task.budget.sum()))
        pixels = before[rows].clone().requires_grad_()
        real = reference.images(OWNERS[owner], seed=owner)
        loss = reference.loss(real, pixels, task.labels(), look, augment, drawn.augmentation)
        (gradient,) = torch.autograd.grad(loss, pixels)
        low, high = -0.3 / 0.4, (1 - 0.3) / 0.4
        torch.testing.assert_close(
            state.pixels[rows], (pixels.detach() - 0.3 * gradient).clamp(low, high), rtol=0, atol=1e-6
        )
        assert float(metrics["loss"][owner]) == pytest.approx(float(loss.detach()) / len(task.present), rel=1e-10)
    assert first == len(before)


@pytest.mark.parametrize(
    ("chunk", "batch_real", "augment", "around"),
    [
        (0, 0, None, False),
        (3, 2, None, True),
        (3, 0, DSAConfig(), True),
        (0, 2, DSAConfig(), True),
        (3, 2, DSAConfig(), False),
    ],
)  # every pair of two settings
def test_together_each_owner_makes_what_it_makes_alone(
    chunk: int, batch_real: int, augment: DSAConfig | None, around: bool
) -> None:
    pool = POOL.model_copy(update={"around": "server" if around else "fresh"})
    condenser = method(batch_real=batch_real, augment=augment, networks=pool)
    streams = [own(owner) for owner in range(len(OWNERS))]
    found = condense_together(condenser, tasks(chunk, around=around), 6, streams, log_every=2)
    for owner, (synthetic, history) in enumerate(found):
        alone, curve = condense(condenser, tasks(chunk, around=around)[owner], 6, own(owner), log_every=2)
        assert torch.equal(synthetic.labels, alone.labels)
        difference = (synthetic.images.int() - alone.images.int()).abs()
        assert int(difference.max()) <= 1  # half a grey level of rounding
        assert [at for at, _ in history] == [at for at, _ in curve] == [1, 2, 4, 6]
        for (_, ours), (_, theirs) in zip(history, curve, strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert synthetic.provenance == alone.provenance


def test_another_owners_images_change_nothing() -> None:
    condenser, mine = method(), tasks()[0]
    streams = [own(0), own(1)]
    first, _ = condense_together(condenser, [mine, tasks()[1]], 4, streams)[0]
    other = replace(tasks()[1], real=reference.task(mine.network, (9, 9, 9, 9), real=reference.images((9,) * 4)).real)
    second, _ = condense_together(condenser, [mine, other], 4, streams)[0]
    assert int((first.images.int() - second.images.int()).abs().max()) <= 1


def test_a_mix_up_of_owners_would_be_noticed() -> None:
    condenser, streams = method(), [own(owner) for owner in range(4)]
    found = condense_together(condenser, tasks(), 6, streams)
    swapped, _ = condense(condenser, tasks()[0], 6, own(1))
    assert int((found[0][0].images.int() - swapped.images.int()).abs().max()) > 5


def test_interrupted_work_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    class Cut(RuntimeError):  # noqa: N818 - stands for a kill
        pass

    def cut(iteration: int, values: dict[str, float]) -> None:
        if iteration == 4:
            raise Cut

    condenser, streams = method(), [own(owner) for owner in range(4)]
    options: dict[str, Any] = {"store": tmp_path, "checkpoint_every": 0.0, "log_every": 2}
    whole = condense_together(condenser, tasks(), 6, streams, log_every=2)
    with pytest.raises(Cut):
        condense_together(condenser, tasks(), 6, streams, log=cut, **options)
    assert (tmp_path / "condensation.safetensors").is_file()
    resumed = condense_together(condenser, tasks(), 6, streams, **options)
    for (left, curve), (right, other) in zip(whole, resumed, strict=True):
        assert torch.equal(left.images, right.images)
        assert curve == other


def test_only_the_first_owner_is_spoken_of() -> None:
    heard: list[tuple[int, dict[str, float]]] = []
    streams = [own(owner) for owner in range(4)]
    found = condense_together(method(), tasks(), 2, streams, log=lambda *entry: heard.append(entry))
    assert heard == found[0][1]


def test_batch_norm_and_networks_of_ones_own_are_refused() -> None:
    with pytest.raises(UserError, match="through batch norm"):
        join_tasks(tasks(norm="batch"))
    with pytest.raises(UserError, match="only under shared networks"):
        join_tasks([replace(task, shared=None) for task in tasks()])
    with pytest.raises(UserError, match="only under shared networks"):
        join_tasks([tasks()[0], replace(tasks()[1], shared=Streams(1))])
    with pytest.raises(UserError, match=r"shared: one pool for all clients of a round"):
        method().prepare(reference.task(), stream(0))


# --- the algebra ---

LIGHT = settings(max_examples=25, deadline=None)


@LIGHT
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_joined_states_come_apart_as_they_were(rows: list[int]) -> None:
    states = [Images.start(torch.randn(count, 1, 2, 2, generator=stream(count))) for count in rows]
    back = split_state(join_states(states), rows)
    for one, other in zip(states, back, strict=True):
        assert torch.equal(one.pixels, other.pixels)
        assert torch.equal(one.first, other.first)
        assert torch.equal(one.steps, other.steps)


@LIGHT
@given(
    st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4).filter(any), min_size=1, max_size=7), st.integers(0, 9)
)
def test_pieces_are_whole_owners_and_every_row_once(budgets: list[list[int]], chunk: int) -> None:
    task = replace(reference.task(chunk=chunk), budget=torch.tensor(budgets).flatten())
    labels = torch.cat([piece.labels + piece.segments.start for piece in task.pieces])
    assert torch.equal(labels, task.labels())
    assert [row for piece in task.pieces for row in range(piece.rows.start, piece.rows.stop)] == list(
        range(len(labels))
    )
    assert torch.equal(torch.cat([piece.budget for piece in task.pieces]), task.budget)
    per_owner = task.budget.view(-1, 4).sum(1).tolist()
    for piece in task.pieces:
        first, last = piece.segments.start // 4, piece.segments.stop // 4
        assert (piece.segments.start % 4, piece.segments.stop % 4) == (0, 0)
        assert sum(per_owner[first:last]) <= (SLICE * chunk or PIECE) or last - first == 1


def test_one_owner_left_of_a_block_is_condensed_as_a_block() -> None:
    """Its siblings may have failed before the work: metrics of one owner are numbers, not lists."""
    ((synthetic, history),) = condense_together(method(), tasks()[:1], 3, [own(0)], log_every=1)
    alone, curve = condense(method(), tasks()[0], 3, own(0), log_every=1)
    assert torch.equal(synthetic.images, alone.images)
    assert history == curve
