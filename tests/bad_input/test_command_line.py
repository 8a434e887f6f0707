"""Commands that are not there, and configs of another command."""

from __future__ import annotations

import pytest

CENTRALLY = {
    "run_file": (["run.yaml"], ["has an algorithm", "fedsim run"]),
    "around_a_server": (["central.yaml", "method.networks.around=server"], ["method.networks", "central", "fresh"]),
    "shared_with_nobody": (["central.yaml", "method.networks.shared=true"], ["method.networks.shared", "leave it out"]),
    "perturbed": (["central.yaml", "method.networks=perturb"], ["method.networks", "central", "fresh"]),
    "federated_key": (["central.yaml", "rounds=2"], ["rounds", "unknown key", "evaluation"]),
    "no_method": (["central.yaml", "method="], ["method", "needs a name", "dm"]),
}


@pytest.mark.parametrize(("words", "mention"), CENTRALLY.values(), ids=CENTRALLY)
def test_central_condensation(refused, words, mention):
    refused(["distill", *words], mention)


OF_OTHERS = {
    "run_a_sweep": (["run", "sweep.yaml"], ["the file of a sweep (it has rows", "use fedsim sweep sweep.yaml"]),
    "run_an_audit": (["run", "audit.yaml"], ["the file of an audit", "use fedsim audit run audit.yaml"]),
    "run_nothing": (["run", "none.yaml"], ["none.yaml has no algorithm", "valid: feddm", "fedsim distill"]),
    "distill_a_sweep": (["distill", "sweep.yaml"], ["the file of a sweep", "use fedsim sweep sweep.yaml"]),
    "sweep_a_run": (["sweep", "run.yaml"], ["the file of a run", "use fedsim run run.yaml", "run: run.yaml and rows"]),
    "sweep_a_condensation": (["sweep", "central.yaml"], ["the file of a central", "use fedsim distill central.yaml"]),
    "sweep_an_audit": (["sweep", "audit.yaml"], ["the file of an audit", "use fedsim audit run audit.yaml"]),
    "audit_a_run": (
        ["audit", "plan", "run.yaml"],
        ["no audit", "use fedsim run run.yaml", "run: run.yaml and attacks"],
    ),
    "audit_a_sweep": (["audit", "run", "sweep.yaml"], ["no audit but the file of a sweep", "use fedsim sweep"]),
    "verify_a_run": (
        ["audit", "verify", "made"],
        ["made is the folder of a run", "fedsim audit run printed", "--attack"],
    ),
}


@pytest.mark.parametrize(("words", "mention"), OF_OTHERS.values(), ids=OF_OTHERS)
def test_files_of_other_commands(refused, tmp_path, words, mention):
    (tmp_path / "sweep.yaml").write_text("name: s\nrun: run.yaml\nrows: {clean: {}}\n")
    (tmp_path / "audit.yaml").write_text("run: run.yaml\nrows: 6\nattacks: [{name: lira}]\n")
    (tmp_path / "none.yaml").write_text("rounds: 2\n")
    (tmp_path / "made").mkdir()
    (tmp_path / "made/config.yaml").write_text((tmp_path / "run.yaml").read_text())
    (tmp_path / "made/manifest.json").write_text("{}")
    refused(words, mention)


WORDS = {
    "nothing": ([], ["valid: run, distill", "fedsim --help"]),
    "unknown_command": (["runn"], ["'runn'", "valid: run, distill", "fedsim --help"]),
    "no_config": (["run"], ["CONFIG", "fedsim run --help"]),
    "unknown_kind": (["list", "metods"], ["'metods'", "did you mean 'method'", "partition"]),
    "unknown_kind_that_ends_in_s": (["list", "bogus"], ["unknown kind 'bogus'", "valid: data, partition"]),
    "unknown_part": (["describe", "dmm"], ["'dmm'", "did you mean 'dm'", "fedsim list"]),
    "report_on_a_folder": (["report", "."], ["config.yaml", "give"]),
    "report_on_nothing": (["report", "nowhere"], ["nowhere", "config.yaml", "give"]),
    "evaluate_without_data": (["evaluate", "x.safetensors"], ["--data", "fedsim evaluate --help"]),
}


@pytest.mark.parametrize(("words", "mention"), WORDS.values(), ids=WORDS)
def test_command_line(refused, words, mention):
    refused(words, mention)
