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
