"""Labels off the last layer: always right for one record, whole counts for a batch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from attacks.labels import batch_labels, label_counts, multiset_accuracy, row_sum_rule, sign_rule
from fedsim.models.convnet import Config as ConvNetConfig
from fedsim.models.convnet import ConvNet
from fedsim.models.functional import call
from fedsim.models.lenet import LeNetDLG
from fedsim.seeding import stream
from fedsim.types import UserError
from tests.attacks.leaks import CLASSES, SIGMOID, leak

RELU = ConvNetConfig(depth=1, width=4, norm="none")


@pytest.mark.parametrize(("architecture", "config"), [(LeNetDLG, SIGMOID), (ConvNet, RELU)])
@pytest.mark.parametrize("rule", [sign_rule, row_sum_rule])
def test_one_record_gives_its_label_away(architecture, config, rule):
    made = leak(50, own=True, architecture=architecture, config=config)
    assert torch.equal(rule(made.observed.targets["head.weight"]), made.labels[:, 0])


def test_features_of_either_sign_defeat_the_row_sums_alone():
    features = torch.randn(60, 1, 7, generator=stream(0))
    labels = torch.randint(5, (60,), generator=stream(1))
    errors = torch.randn(60, 5, generator=stream(2)).softmax(1) - F.one_hot(labels, 5)
    rows = errors[:, :, None] * features
    assert torch.equal(sign_rule(rows), labels)
    assert (row_sum_rule(rows) == labels).float().mean() < 0.8


def test_two_classes_look_alike_to_the_signs():
    with pytest.raises(UserError, match="got 2 classes"):
        sign_rule(torch.randn(1, 2, 3, generator=stream(0)))


def test_counts_are_exact_where_the_mean_output_is_known():
    made = leak(6, records=5)
    seen = made.observed
    mean = torch.stack([call(seen.network, seen.params, "forward", rows).softmax(1).mean(0) for rows in made.pixels])
    counts = label_counts(seen.targets["head.bias"], mean, 5)
    assert torch.equal(counts, F.one_hot(made.labels, CLASSES).sum(1))


def test_counts_are_whole_and_add_up_whatever_the_estimate():
    counts = label_counts(torch.randn(40, 6, generator=stream(3)), torch.full((40, 6), 1 / 6), 7)
    assert (counts >= 0).all()
    assert (counts.sum(1) == 7).all()


@pytest.mark.parametrize("own", [False, True])
def test_labels_of_a_batch_from_noise_alone(own):
    made = leak(8, records=6, own=own)
    found = batch_labels(made.observed, stream(4))
    assert found.shape == made.labels.shape
    assert multiset_accuracy(found, made.labels, CLASSES).mean() > 0.95


def test_order_does_not_count():
    left, right = torch.tensor([[0, 1, 1, 3]]), torch.tensor([[1, 0, 2, 1]])
    assert multiset_accuracy(left, right, 4).tolist() == [0.75]
