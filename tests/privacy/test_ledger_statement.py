"""What a ledger says of itself: label, premises, what is not covered."""

from __future__ import annotations

import json

import torch

from fedsim.privacy.accountant import Releases, guarantee
from fedsim.privacy.ledger import Charge, Ledger
from fedsim.privacy.mechanism import Mechanism
from fedsim.privacy.premises import assumptions, statement, worst
from tests.privacy.test_ledger import DELTA, MECHANISM, Client, price


def test_equal_charges_are_told_as_one(tmp_path):
    client, other = Client(tmp_path), Mechanism(1.0, 0.1, 7.0)
    for step in range(5):
        client.release(f"step {step}", number=1)
        client.release(f"other step {step}", number=2, mechanism=other)
    said = statement(client.ledger, 1000, 1)
    assert [(one["sigma"], one["number"]) for one in said["charges"]] == [(5.0, 5), (7.0, 10)]
    assert said["epsilon"] == guarantee([Releases(5.0, 5), Releases(7.0, 10)], DELTA).epsilon


def test_a_statement_names_premises_and_what_is_not_covered(tmp_path):
    client = Client(tmp_path)
    client.release()
    said = statement(client.ledger, 1000, 321)
    assert said["label"] == "dp"
    assert (said["epsilon"], said["method"], said["releases"]) == (price(2), "gaussian", 2)
    assert {one["status"] for one in said["assumptions"]} == {"enforced", "assumed"}
    assert any("one record, not one person" in line for line in said["not_covered"])  # T15, T16
    assert any("client-level" in line for line in said["not_covered"])
    assert "321" not in json.dumps(said)


def test_a_seeded_run_is_labelled_and_its_premise_violated(tmp_path):
    ledger = Ledger(tmp_path, DELTA, "add_remove")
    ledger.once(Charge.of("round 1", MECHANISM, 1, simulated=True), lambda: {"values": torch.zeros(1)})
    said = statement(Ledger(tmp_path, DELTA, "add_remove"), 1000, 1)
    assert said["label"] == "simulated_dp"  # T11
    (broken,) = [one for one in said["assumptions"] if one["status"] == "violated"]
    assert broken["name"] == "noise that nobody can repeat"


def test_a_client_above_the_public_bound_is_told(tmp_path):
    found = assumptions(Ledger(tmp_path, DELTA, "add_remove"), 1000, 1001)
    (broken,) = [one for one in found if one.status == "violated"]
    assert broken.name == "δ below 1 over the records"
    assert "1001" not in broken.evidence


def test_the_federation_pays_what_its_worst_client_pays(tmp_path):
    said = []
    for client in range(3):
        one = Client(tmp_path / str(client))
        one.release(number=1 + client % 2)
        said.append(statement(one.ledger, 1000, 10))
    assert worst(said)["epsilon"] == price(2)
