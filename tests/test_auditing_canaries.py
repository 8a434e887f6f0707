"""The audit of ε from its file to its card: an honest accountant stands, a wrong one gives exit 4."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fedsim.audit.schema import AuditRun, load_audit
from fedsim.audit_checks import plan, verify
from fedsim.audit_runs import work
from fedsim.auditing import audit
from fedsim.cli import main
from fedsim.privacy import accountant
from fedsim.privacy.mechanism import Mechanism
from fedsim.types import RunFailed, UserError

FILE = Path("configs/audit/one_run_digits.yaml")
SMALL = (
    "workers=1", "run.model={name: mlp, depth: 1, width: 64}", "run.server={epochs: 2, lr: 0.01, batch_size: 64}",
    "run.method.iterations=2", "run.method.networks.size=3", "run.partition.clients=2",
)  # fmt: skip


def small(*more: str) -> AuditRun:
    return load_audit(FILE, [*SMALL, "attacks=[{name: one_run_canaries, guesses: 0.2, random_networks: 2}]", *more])


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are made in this process, where bugs are planted."""
    monkeypatch.setattr("fedsim.auditing.make", lambda folder, workers, terminal: work(folder, 0, 1))


def card_of(folder: Path) -> dict:
    return json.loads((folder / "card.json").read_text())


def registered(card: dict) -> dict:
    return next(one for one in card["findings"] if one["confirmatory"])


def test_an_honest_accountant_is_not_contradicted_and_every_number_is_repeated(tmp_path: Path) -> None:
    folder, code = audit(small(), tmp_path)
    card, found = card_of(folder), registered(card_of(folder))
    assert code == card["exit_code"] == 0
    assert not card["contradicted"]
    assert found["status"] == "NOT_DETECTED"
    assert found["details"]["canaries"] == 600
    assert found["details"]["epsilon_claimed"] == pytest.approx(2, rel=1e-6)
    assert 0 < found["details"]["epsilon_lower"] < 2
    assert {one["id"].split(".")[2] for one in card["findings"]} == {"transcript", "set", "model"}
    assert [one["name"] for one in card["controls"]] == ["coins"]
    assert card["release"]["planted"] == {"crafted": 600, "mislabelled": 100}
    assert "accuracy_with_planted" in card["utility"]
    assert card["accounting"]["epsilon"] == pytest.approx(2, rel=1e-6)
    assert "each planted by the toss of a coin" in (folder / "card.html").read_text()
    assert main(["audit", "verify", str(folder)]) == 0
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("runs"))
    (copy / "card.json").write_text(json.dumps(card | {"contradicted": True}))
    with pytest.raises(RunFailed, match="contradicted: the card says True, recomputed False"):
        verify(copy)


def forgets_composition(monkeypatch: pytest.MonkeyPatch) -> None:
    """An accountant that charges all releases of a client as if they were one."""
    true = accountant.guarantee
    wrong = lambda releases, *rest: true([replace(one, number=1) for one in releases], *rest)  # noqa: E731
    monkeypatch.setattr("fedsim.privacy.ledger.guarantee", wrong)
    monkeypatch.setattr("fedsim.privacy.agreement.guarantee", wrong)
    one = lambda epsilon, delta, number, *rest: accountant.noise_for(epsilon, delta, 1, *rest)  # noqa: E731
    monkeypatch.setattr("fedsim.privacy.agreement.noise_for", one)


def forgets_the_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mechanism whose noise has deviation σ, not σΔ."""
    monkeypatch.setattr(Mechanism, "deviation", property(lambda self: self.sigma))


# Fourteen networks since ten, tried first, gave p = .0012: at 0.1 % the test has little power for so few records.
@pytest.mark.parametrize(
    ("bug", "networks"), [(forgets_composition, 14), pytest.param(forgets_the_norm, 3, marks=pytest.mark.slow)]
)
def test_a_wrong_accountant_gives_exit_4(bug, networks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    folder, code = audit(small(f"run.method.networks.size={networks}"), tmp_path)
    card, found = card_of(folder), registered(card_of(folder))
    assert code == card["exit_code"] == 4
    assert card["contradicted"]
    assert card["verdict"].startswith("CONTRADICTED")
    assert found["p"] < 0.001
    assert found["details"]["epsilon_claimed"] == pytest.approx(2, rel=1e-6)
    assert found["details"]["epsilon_lower"] > 2
    monkeypatch.undo()
    assert "recomputed: all as on the card" in verify(folder)


def test_without_privacy_bounds_stand_and_nothing_is_claimed(tmp_path: Path) -> None:
    planted = "run.audit={canaries: 200, planted: {mislabelled: 200}}"
    attack = "attacks=[{name: one_run_canaries, kind: mislabelled, random_networks: 2}]"
    folder, code = audit(small("run.privacy=", planted, attack), tmp_path)
    found = {one["id"]: one for one in card_of(folder)["findings"]}
    assert code == 6
    first = found["one_run_canaries.mislabelled.transcript.right_guesses"]
    assert (first["status"], first["note"]) == ("NOT_RUN", "the run has no noisy sums and claims no ε: no formal ε")
    assert found["one_run_canaries.mislabelled.set.right_guesses"]["details"]["canaries"] == 200
    assert "all as on the card" in verify(folder)


def test_a_plan_says_what_could_be_contradicted() -> None:
    text = plan(small())
    assert "2 runs, 1 at a time: plain, canaries" in text
    assert "600 planted records, 120 guessed in and 120 out: ε shown at most" in text
    assert "claimed ε = 2, δ = 1e-06" in text
    assert "contradicted at 0.001 in four of five audits if the true ε is" in text
    assert "it cannot be contradicted at 0.001" in plan(small("run.privacy.target_epsilon=8"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run.audit.canaries=10"], "got 700 records for 10 slots"),
        (["run.audit={canaries: 700}"], "run.audit.planted: an attack asks for planted records"),
        (["run.audit.planted={mislabelled: 100}"], "run.audit.planted.crafted: got 0"),
        (["run.privacy="], "audit.planted.crafted: crafted records are vectors"),
        (["run.privacy.rate=0.5"], "features with rate 1"),
        (["run.audit.planted.carfted=3"], "did you mean 'crafted'"),
        (["run.engine=ray"], "valid with audit.planted: local"),
    ],
)
def test_what_cannot_be_planted_is_refused_in_one_line(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        small(*words)
    assert "\n" not in str(raised.value)
