"""Known ways to lose the privacy that was claimed, and the tests that plant each one and see it caught.

What catches it is said in brackets: a type (nothing to call, or a value that cannot be made), a refusal (one line
before or during the work), the ledger, or a check of these tests on the mechanism, which fails on planted code.
"""

from __future__ import annotations

import importlib
import inspect

import pytest

from fedsim.types import UserError
from tests.federated.algorithms.test_private_feddm import config

TRAPS: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "T1": ("uploads that start as, or select, real images [refusal, type]", {
        "privacy.test_trap_list": ("test_every_start_but_noise_is_refused",),
        "distill.distribution.test_private_dm": (
            "test_settings_that_are_not_accounted_are_refused",
            "test_plain_matching_and_real_starts_meet_a_closed_door",
            "test_a_method_that_gets_past_the_settings_meets_a_closed_door",
        ),
        "privacy.test_owner": ("test_whatever_is_exact_is_refused_in_one_line",),
    }),
    "T2": ("sums divided by the size of a class or batch [check]", {
        "privacy.test_planted_bugs": ("test_dividing_by_the_size_of_a_class_is_noticed",),
        "privacy.test_dp_sgd_bugs": ("test_dividing_by_the_drawn_batch_is_noticed",),
    }),
    "T3": ("noise of σ in the place of σ times the sensitivity [check]", {
        "privacy.test_planted_bugs": (
            "test_noise_that_forgets_the_sensitivity_is_noticed", "test_noise_that_forgets_the_count_is_noticed",
        ),
        "privacy.test_dp_sgd_bugs": ("test_noise_that_forgets_the_clipping_norm_is_noticed",),
        "privacy.test_pooled": ("test_a_count_of_its_own_beside_it_is_noticed",),
        "distill.gradient.test_private_gradients": ("test_a_sensitivity_without_the_count_is_noticed",),
    }),
    "T4": ("clipping after averaging [check]", {
        "privacy.test_planted_bugs": ("test_clipping_after_summing_is_noticed",),
        "privacy.test_dp_sgd_bugs": ("test_clipping_the_sum_is_noticed",),
        "privacy.test_pooled": ("test_rows_that_are_not_clipped_are_noticed",),
        "distill.gradient.test_private_gradients": ("test_clipping_after_averaging_is_noticed",),
    }),
    "T5": ("fresh noise on a sum that was kept [type, ledger]", {
        "privacy.test_planted_bugs": ("test_a_sum_that_keeps_what_it_was_before_the_noise_is_noticed",),
        "privacy.test_mechanism": ("test_nothing_exact_is_left_after_a_release",),
        "privacy.test_ledger": ("test_a_sum_noised_afresh_at_every_step_is_charged_at_every_step",),
    }),
    "T6": ("batch norm, by which images see each other, and draws in the order of the data [refusal, check]", {
        "privacy.test_owner": ("test_batch_norm_is_refused_before_anything_is_charged",),
        "privacy.test_planted_bugs": ("test_vectors_that_see_the_batch_are_noticed",),
        "privacy.test_dp_sgd_bugs": ("test_batch_norm_is_refused_twice",),
        "distill.gradient.test_private_gradients": (
            "test_batch_norm_is_refused_before_anything_is_charged",
            "test_an_augmentation_drawn_in_the_order_of_the_data_is_noticed",
        ),
    }),
    "T7": ("weights normalised over the batch, or put on after clipping [check]", {
        "privacy.test_planted_bugs": ("test_weights_normalised_over_the_batch_are_noticed",),
        "distill.gradient.test_private_gradients": (
            "test_weights_normalised_over_the_batch_are_noticed", "test_a_weight_is_inside_the_clip",
        ),
    }),
    "T8": ("uploads of the classes that are held, or exact counts [type, check]", {
        "privacy.test_planted_bugs": (
            "test_every_class_is_released_whether_it_is_held_or_not", "test_counts_released_exactly_are_noticed",
        ),
        "privacy.test_owner": ("test_whatever_is_exact_is_refused_in_one_line",),
        "distill.distribution.test_private_dm": ("test_images_per_class_do_not_tell_how_many_there_are",),
        "federated.algorithms.test_private_feddm": (
            "test_what_would_release_more_than_is_paid_is_refused_before_any_work",
        ),
    }),
    "T9": ("numbers of images and losses in a client's reply [refusal]", {
        "federated.algorithms.test_private_feddm": (
            "test_a_reply_holds_neither_counts_nor_losses",
            "test_a_reply_with_an_exact_number_is_refused_and_stops_the_run",
        ),
        "federated.algorithms.test_private_fedavg": ("test_a_reply_holds_constants_and_the_average_is_uniform",),
    }),
    "T10": ("shuffled epochs accounted for as Poisson samples [check]", {
        "privacy.test_dp_sgd_bugs": ("test_shuffled_epochs_in_the_place_of_coins_are_noticed",),
    }),
    "T11": ("noise from a seed that the config names [ledger]", {
        "privacy.test_agreement": (
            "test_seeded_noise_repeats_and_is_never_called_dp",
            "test_noise_of_the_system_is_drawn_without_the_runs_streams_and_never_repeats",
        ),
        "privacy.test_ledger_statement": ("test_a_seeded_run_is_labelled_and_its_premise_violated",),
        "federated.test_restart": (
            "test_a_result_without_the_ledgers_says_what_was_agreed_and_whether_it_is_a_simulation",
        ),
    }),
    "T13": ("parts of a record's vector (logits, layers) that are not clipped, or clipped apart [check]", {
        "privacy.test_planted_bugs": (
            "test_logits_left_unclipped_beside_the_embedding_are_noticed",
            "test_embedding_and_logits_clipped_apart_are_noticed",
        ),
        "privacy.test_dp_sgd_bugs": ("test_layers_clipped_apart_are_noticed",),
    }),
    "T14": ("a δ under which one record may be published [refusal]", {
        "privacy.test_ledger": ("test_a_delta_that_would_publish_a_record_is_refused",),
        "privacy.test_ledger_statement": ("test_a_client_above_the_public_bound_is_told",),
    }),
    "T17": ("nothing done where a batch is empty or not finite [check]", {
        "privacy.test_planted_bugs": (
            "test_a_record_that_is_skipped_for_what_it_is_changes_no_other",
            "test_every_class_is_released_whether_it_is_held_or_not",
        ),
        "privacy.test_dp_sgd_bugs": (
            "test_an_empty_batch_is_a_step_of_noise_like_any_other",
            "test_a_gradient_that_is_not_finite_counts_as_none",
        ),
        "privacy.test_owner": ("test_a_client_without_images_releases_like_any_other",),
        "federated.algorithms.test_private_feddm": (
            "test_a_client_without_images_is_asked_and_answers_like_any_other",
        ),
    }),
    "T18": ("a sampling rate for each class [type, refusal]", {
        "privacy.test_mechanism": ("test_a_rate_for_each_class_is_no_rate",),
        "privacy.test_trap_list": ("test_a_rate_of_a_class_is_no_setting",),
    }),
    "T19": ("noise or clipping in low precision [refusal, check]", {
        "privacy.test_mechanism": ("test_noise_of_low_precision_is_refused",),
        "privacy.test_planted_bugs": ("test_clipping_in_low_precision_is_noticed",),
        "privacy.test_dp_sgd_bugs": ("test_noise_in_low_precision_is_refused",),
    }),
    "T20": ("a δ that depends on data [type, ledger]", {
        "privacy.test_agreement": (
            "test_a_delta_for_each_client_or_of_their_sizes_is_no_delta",
            "test_nor_is_there_a_bound_for_each_client",
            "test_a_ledger_kept_under_one_over_the_clients_size_is_refused",
            "test_epsilon_and_delta_do_not_depend_on_how_many_records_a_client_holds",
        ),
        "privacy.test_ledger": ("test_delta_and_adjacency_are_fixed_before_the_first_release",),
    }),
}  # fmt: skip
"""Trap → what it is, and module → tests."""

NAMED = ["T1", "T2", "T3", "T4", "T5", "T6", "T8", "T9", "T10", "T11", "T17", "T18", "T19", "T20"]
"""Those that must be caught, whatever else is."""


@pytest.mark.parametrize("trap", TRAPS)
def test_every_trap_is_planted_by_tests_that_are_there_and_run(trap):
    _, modules = TRAPS[trap]
    assert modules
    for place, names in modules.items():
        module = importlib.import_module(f"tests.{place}")
        assert not {"skip", "skipif", "slow"} & marks(module)
        for name in names:
            test = getattr(module, name)
            assert inspect.isfunction(test)
            assert test.__name__ == name
            assert not {"skip", "skipif", "xfail", "slow"} & marks(test), f"{place}.{name} does not always run"


def marks(thing: object) -> set[str]:
    found = getattr(thing, "pytestmark", [])
    return {mark.name for mark in (found if isinstance(found, list) else [found])}


def test_none_is_missing():
    assert set(NAMED) <= set(TRAPS)


# --- traps that are caught by the settings alone ---


@pytest.mark.parametrize("init", ["real", "mix"])
@pytest.mark.parametrize("algorithm", ["feddm", "one_shot"])
def test_every_start_but_noise_is_refused(init, algorithm):
    around = "server" if algorithm == "feddm" else "fresh"
    with pytest.raises(UserError, match=r"^method\.init: "):
        config(algorithm=algorithm, rounds=1, method={"init": init, "networks": {"around": around}})
    config(algorithm=algorithm, rounds=1, method={"init": "noise", "networks": {"around": around}})


@pytest.mark.parametrize(
    ("key", "says"),
    [("rate", "got .* should be a valid number"), ("rates", "unknown key"), ("sample_rate", "unknown key")],
)
def test_a_rate_of_a_class_is_no_setting(key, says):
    with pytest.raises(UserError, match=rf"^privacy\.{key}: {says}"):
        config(privacy={key: [0.1] * 10})
