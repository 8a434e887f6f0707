"""Who can be reached, who is asked of those, and that a run keeps to it and says so."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.config import digest, merge, parse_yaml, to_yaml
from fedsim.experiment import execute
from fedsim.federated.participation import Participation, Roll, asked
from fedsim.federated.traces import Bernoulli, BernoulliConfig, Cyclic, CyclicConfig, File, FileConfig
from fedsim.schema import FederatedRun, resolve
from fedsim.seeding import Streams
from fedsim.types import UserError
from tests.reference.tiny_run import TINY, InlineGrid

LIGHT = settings(max_examples=40, deadline=None)


def test_by_chance_the_share_is_the_rate_and_rounds_and_seeds_differ() -> None:
    trace = Bernoulli(BernoulliConfig(rate=0.3))
    found = [trace.available(1000, number, Streams(0)) for number in range(1, 31)]
    assert sum(map(len, found)) / 30_000 == pytest.approx(0.3, abs=0.015)  # five standard deviations
    both = len(found[0] & found[1]) / 1000
    assert both == pytest.approx(0.09, abs=0.05)
    assert trace.available(1000, 1, Streams(0)) == found[0] != trace.available(1000, 1, Streams(1))
    assert Bernoulli(BernoulliConfig(rate=1.0)).available(5, 1, Streams(0)) == set(range(5))


@LIGHT
@given(st.integers(2, 12), st.floats(0.01, 1), st.integers(1, 40), st.integers(0, 9))
def test_by_the_day_everyone_has_the_share_in_one_stretch(period: int, share: float, clients: int, seed: int) -> None:
    trace = Cyclic(CyclicConfig(period=period, share=share))
    days = [trace.available(clients, number, Streams(seed)) for number in range(1, 2 * period + 1)]
    assert days[:period] == days[period:]
    there = asked(share, period)
    for client in range(clients):
        seen = [client in day for day in days]
        assert sum(seen[:period]) == there
        assert sum(one != other for one, other in pairwise([*seen[:period], seen[0]])) == (2 if there < period else 0)
    if clients % period == 0:
        assert {len(day) for day in days} == {there * clients // period}


TRACE = {1: {0, 2}, 2: {1}, 3: set()}


def written(folder: Path, name: str) -> Path:
    path = folder / name
    if name.endswith(".json"):
        path.write_text(json.dumps({number: sorted(clients) for number, clients in TRACE.items()}))
    else:
        path.write_text("round,client\n1,2\n1,0\n2,1\n")
    return path


@pytest.mark.parametrize("name", ["trace.csv", "trace.json"])
def test_a_file_says_who_was_there(tmp_path: Path, name: str) -> None:
    trace = File(FileConfig(path=str(written(tmp_path, name))))
    assert [trace.available(3, number, Streams(0)) for number in (1, 2, 3)] == list(TRACE.values())
    trace.check(3, 2)
    with pytest.raises(UserError, match=r"names client 2; clients are 0 to 1"):
        trace.check(2, 2)
    if name == "trace.csv":
        with pytest.raises(UserError, match=r"ends with round 2; give one of 3 rounds or more, or rounds=2"):
            trace.check(3, 3)


def test_a_changed_file_is_another_run_and_never_the_same_one(tmp_path: Path) -> None:
    path = written(tmp_path, "trace.csv")
    config = resolve(FederatedRun, tiny(partition={"clients": 3}, participation={"trace": here(path)}))
    before = digest(config)
    path.write_text("round,client\n1,0\n2,1\n")
    again = resolve(FederatedRun, tiny(partition={"clients": 3}, participation={"trace": here(path)}))
    assert digest(again) != before
    told: Any = resolve(FederatedRun, parse_yaml(to_yaml(config), "test")).participation.trace
    with pytest.raises(UserError, match=r"trace\.csv is not the file it was .*restore it, or leave sha256 out"):
        File(told).check(3, 2)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("client,round\n0,1\n", "its header is client,round"),
        ("", "its header is"),
        ("round,client\n1,many\n", "invalid literal for int"),
        ("round,client\n1\n", "int.. argument must be"),
        ("round,client\n0,1\n1,1\n2,1\n", "names round 0"),
        ("round,client\n1,-1\n2,1\n", "names client -1"),
    ],
)
def test_a_file_that_is_no_trace_is_one_line(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=reason) as refused:
        File(FileConfig(path=str(path))).check(2, 2)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["[1]", '{"1": 3}', '{"one": [1]}', '{"1": [1.5]}', "{", "{}"])
def test_json_that_is_no_trace_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trace.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"trace\.json (is no trace .*or a \.json file such as|ends with round 0)"):
        File(FileConfig(path=str(path))).check(2, 2)


@LIGHT
@given(st.floats(0.01, 1), st.floats(0.2, 1), st.integers(1, 30), st.integers(1, 9))
def test_those_asked_are_a_share_of_those_there(fraction: float, rate: float, clients: int, number: int) -> None:
    roll = Roll(list(range(0, clients, 2)), clients, Bernoulli(BernoulliConfig(rate=rate)))
    there = roll.available(number, Streams(3))
    chosen = roll.chosen(fraction, number, Streams(3))
    assert set(chosen) <= set(there) <= set(roll.holding)
    assert chosen == sorted(chosen)
    assert len(chosen) == (asked(fraction, len(there)) if there else 0)


def test_too_few_are_refused_before_the_run() -> None:
    trace = Cyclic(CyclicConfig(period=2, share=0.5))
    roll = Roll(range(5), 5, trace)
    roll.check(Participation(min_replies=2), 9, Streams(0))
    with pytest.raises(UserError, match=r"min_replies=3 cannot be reached in round \d: 2 clients .*of the 2 that"):
        roll.check(Participation(min_replies=3), 9, Streams(0))
    with pytest.raises(UserError, match=r"in round \d: 0 clients are asked in a round of the 0 .*another trace"):
        Roll(range(1), 1, trace).check(Participation(), 2, Streams(0))
    with pytest.raises(UserError, match=r"=3 can never be reached: 2 clients .*; valid: 1 to 2"):
        Roll(range(2), 2).check(Participation(min_replies=3), 9, Streams(0))


# --- whole runs ---


def here(path: Path) -> dict[str, str]:
    return {"name": "file", "path": str(path)}


def tiny(**changes: Any) -> dict[str, Any]:
    return merge(parse_yaml(TINY, "test"), changes)


def ledger(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.federated.engines.local.LocalGrid", InlineGrid)


def test_a_run_asks_who_is_there_and_goes_on_so_after_a_kill(tmp_path: Path, inline: None) -> None:
    config = resolve(
        FederatedRun,
        tiny(
            rounds=3,
            partition={"clients": 6},
            participation={"fraction": 0.5, "trace": {"name": "bernoulli", "rate": 0.6}},
        ),
    )
    folder = execute(config, tmp_path)
    before = ledger(folder)
    for record in before:
        assert record["responders"] == record["asked"]
        assert set(record["asked"]) <= set(record["available"]) < set(range(6))
        assert len(record["asked"]) == asked(0.5, len(record["available"]))
    assert len({tuple(record["available"]) for record in before}) > 1
    expected = json.loads((folder / "result.json").read_text())["model_sha256"]
    for name in ("result.json", "checkpoints/round_0003.safetensors"):
        (folder / name).unlink()
    assert execute(config, tmp_path) == folder
    assert json.loads((folder / "result.json").read_text())["model_sha256"] == expected
    assert [record["available"] for record in ledger(folder)] == [record["available"] for record in before]


def test_a_file_is_kept_to(tmp_path: Path, inline: None) -> None:
    path = written(tmp_path, "trace.csv")
    folder = execute(
        resolve(FederatedRun, tiny(partition={"clients": 3}, participation={"trace": here(path)})), tmp_path
    )
    assert [record["responders"] for record in ledger(folder)] == [[0, 2], [1]]


def test_everyone_always_there_is_no_trace(tmp_path: Path, inline: None) -> None:
    found = [
        execute(resolve(FederatedRun, tiny(participation={"trace": trace})), tmp_path)
        for trace in (None, {"name": "bernoulli", "rate": 1.0})
    ]
    hashes = {json.loads((folder / "result.json").read_text())["model_sha256"] for folder in found}
    assert len(hashes) == 1
    assert ledger(found[0])[0]["available"] is None
    assert ledger(found[1])[0]["available"] == [0, 1]
