"""A release is paid before it exists, leaves once, and a kill at any moment makes nothing free."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fedsim.privacy import ledger as module
from fedsim.privacy.accountant import Releases, guarantee
from fedsim.privacy.ledger import Charge, Ledger, check_delta
from fedsim.privacy.mechanism import Mechanism, release
from fedsim.privacy.noise import SystemNoise
from fedsim.types import UserError

DELTA = 1e-5
MECHANISM = Mechanism(1.0, 0.1, 5.0)


class Killed(BaseException):
    """The process ends here."""


class Client:
    """Releases under a ledger, and counts how often noise was drawn."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger(folder, DELTA, "add_remove")
        self.draws = 0

    def release(self, key: str = "round 1", number: int = 2, mechanism: Mechanism = MECHANISM) -> torch.Tensor:
        def make() -> dict[str, torch.Tensor]:
            self.draws += number
            sums = [release([], torch.zeros(3), 2, mechanism, SystemNoise()).values for _ in range(number)]
            return {"values": torch.stack(sums)}

        return self.ledger.once(Charge.of(key, mechanism, number, simulated=False), make)["values"]


def paid(folder: Path) -> float:
    """ε on the disk."""
    return Ledger(folder, DELTA, "add_remove").spent().epsilon


def price(number: int) -> float:
    return guarantee([Releases(5.0, number)], DELTA).epsilon


def test_a_release_is_paid_once_and_read_again_byte_for_byte(tmp_path):
    first, client = Client(tmp_path).release(), Client(tmp_path)
    assert torch.equal(client.release(), first)
    assert client.draws == 0
    assert paid(tmp_path) == price(2)


def test_other_questions_are_other_releases(tmp_path):
    client = Client(tmp_path)
    values = [client.release(key) for key in ("round 1", "round 2, w", "round 2, w'")]
    assert paid(tmp_path) == price(6)
    assert not torch.equal(values[1], values[2])


def test_the_charge_is_on_the_disk_before_noise_is_drawn(tmp_path):
    seen = []
    ledger = Ledger(tmp_path, DELTA, "add_remove")
    charge = Charge.of("round 1", MECHANISM, 3, simulated=False)
    ledger.once(charge, lambda: seen.append(paid(tmp_path)) or {"values": torch.zeros(1)})
    assert seen == [price(3)]


def test_killed_between_charge_and_store_the_release_is_paid_again(tmp_path, monkeypatch):
    def dying(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(module, "save_tensors", dying)
    with pytest.raises(Killed):
        Client(tmp_path).release()
    assert paid(tmp_path) == price(2)  # paid, though nothing left
    monkeypatch.undo()
    client = Client(tmp_path)
    client.release()
    assert client.draws == 2
    assert paid(tmp_path) == price(4)


def test_killed_between_charge_and_send_what_was_stored_is_sent_and_costs_nothing(tmp_path):
    def killed_before_sending() -> None:
        stored.append(Client(tmp_path).release())
        raise Killed

    stored: list[torch.Tensor] = []
    with pytest.raises(Killed):
        killed_before_sending()
    again = Client(tmp_path).release()
    assert torch.equal(again, stored[0])
    assert paid(tmp_path) == price(2)


def test_killed_while_the_first_charge_is_written_nothing_happened(tmp_path, monkeypatch):
    client = Client(tmp_path)

    def dying(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(module, "write_atomic", dying)
    with pytest.raises(Killed):
        client.release()
    assert client.draws == 0
    assert paid(tmp_path) == 0


@pytest.mark.parametrize("first_bytes", [1, 40, -2, -1])
def test_killed_while_a_later_charge_is_written_nothing_happened(tmp_path, monkeypatch, first_bytes):
    """A torn line is no charge: it was not yet synced, so no noise was drawn for it."""
    client = Client(tmp_path)
    client.release("round 1")

    def dying(path: Path, text: str, _: int | None) -> None:
        with path.open("a") as file:
            file.write(text[:first_bytes])
        raise Killed

    monkeypatch.setattr(module, "_append", dying)
    with pytest.raises(Killed):
        client.release("round 2")
    assert client.draws == 2
    assert paid(tmp_path) == price(2)
    monkeypatch.undo()
    Client(tmp_path).release("round 2")
    assert paid(tmp_path) == price(4)
    assert all(json.loads(line) for line in (tmp_path / "privacy.jsonl").read_text().splitlines())


def test_a_charge_is_a_line_and_earlier_ones_are_not_written_again(tmp_path):
    client, path = Client(tmp_path), tmp_path / "privacy.jsonl"
    client.release("round 1")
    before, inode = path.read_text(), path.stat().st_ino
    for step in range(50):
        client.release(f"round 2, step {step}", number=1)
    assert path.read_text().startswith(before)
    assert path.stat().st_ino == inode
    assert len(path.read_text().splitlines()) == 52
    assert paid(tmp_path) == price(52)


@pytest.mark.parametrize("lost", ["deleted", "older"])
def test_a_release_whose_charge_is_lost_is_refused(tmp_path, lost):
    client = Client(tmp_path)
    client.release("round 1")
    older = (tmp_path / "privacy.jsonl").read_text()
    client.release("round 2")
    (tmp_path / "privacy.jsonl").unlink() if lost == "deleted" else (tmp_path / "privacy.jsonl").write_text(older)
    with pytest.raises(UserError, match="has no charge for it; restore that ledger"):
        Client(tmp_path).release("round 2")


def test_a_damaged_release_is_to_be_restored_and_is_not_paid_for_again(tmp_path):
    client = Client(tmp_path)
    client.release()
    (stored,) = (tmp_path / "released").iterdir()
    stored.write_bytes(stored.read_bytes()[:-9])
    with pytest.raises(UserError, match="a paid release is damaged; restore it: made again, it is paid again") as said:
        client.release()
    assert str(stored) in str(said.value)
    assert not {"delete", "checkpoint"} & set(str(said.value).split())
    assert client.draws == 2
    assert paid(tmp_path) == price(2)


def test_less_noise_for_a_question_already_answered_is_refused(tmp_path):
    Client(tmp_path).release()
    with pytest.raises(UserError, match="released with other settings"):
        Client(tmp_path).release(mechanism=Mechanism(1.0, 0.1, 0.5))


@pytest.mark.parametrize(
    "content", ["", "{", "{}\n", '{"delta": 1e-5, "adjacency": "add_remove"}\n{"key": 1}\n', "\n", "[]\n"]
)
def test_a_damaged_ledger_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "privacy.jsonl").write_text(content)
    with pytest.raises(UserError, match="is damaged") as refused:
        Ledger(tmp_path, DELTA, "add_remove")
    assert "\n" not in str(refused.value)


def test_delta_and_adjacency_are_fixed_before_the_first_release(tmp_path):
    Client(tmp_path).release()
    with pytest.raises(UserError, match="fixed before the first release"):
        Ledger(tmp_path, 1e-3, "add_remove")
    with pytest.raises(UserError, match="fixed before the first release"):
        Ledger(tmp_path, DELTA, "replace")


def test_a_delta_that_would_publish_a_record_is_refused():
    check_delta(1e-5, 60000)
    with pytest.raises(UserError, match=r"delta: got 0.001; valid: more than 0 and less than 1/public_bound \(0.001\)"):
        check_delta(1e-3, 1000)  # T14


def test_a_sum_noised_afresh_at_every_step_is_charged_at_every_step(tmp_path):
    """T5: what is charged is what is drawn, whatever was meant to be cached."""
    client = Client(tmp_path)
    for step in range(20):
        client.release(f"round 1, step {step}", number=1)
    assert client.draws == sum(one.number for one in client.ledger.charges) == 20
    assert paid(tmp_path) == price(20)
