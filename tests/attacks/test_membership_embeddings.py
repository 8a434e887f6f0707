"""The trace of a record in a class mean: power against what is predicted of it, and the equation read literally."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from sklearn.covariance import ledoit_wolf

from attacks.lira import Config, LiRA
from attacks.membership_embeddings import Metric, areas_of_means, effective_directions, nearest_of, predicted_auc
from attacks.membership_likelihoods import leave_pairs_out
from attacks.membership_randomisation import areas
from attacks.membership_statistics import Laboratory
from fedsim.data.images import Images
from fedsim.seeding import Streams, numpy_stream, stream
from fedsim.types import UserError
from tests.attacks.small_audit import SHAPE, Audit, mlp, noise_images, publish
from tests.reference.membership import complementary

CONFIG = Config(statistics=("align", "nn_embedding"), random_networks=3, directions=8)


def laboratory(audit: Audit, config: Config = CONFIG) -> tuple[Laboratory, object]:
    view = audit.view(0, LiRA(Config(statistics=("align",))).threat)
    return Laboratory.of(view, config, Streams(0)), view


DEVIATIONS = torch.logspace(math.log10(0.2), math.log10(5), 60, dtype=torch.float64)


def gaussian(count: int, rng: torch.Generator) -> torch.Tensor:
    """Records of one class whose 60 directions have deviations from 0.2 to 5."""
    return torch.randn((count, 60), generator=rng, dtype=torch.float64) * DEVIATIONS


@pytest.mark.parametrize("size", [5, 20, 100])
def test_the_exact_mean_of_gaussian_classes_is_traced_as_predicted(size):
    """Φ(√(d_eff/(2 n_c))), and Φ(√(d_eff/n_c)) where runs are compared; not whitened it is told far worse."""
    rng, draws = stream(size, "gaussian"), numpy_stream(size)
    metric = Metric.fit(gaussian(20000, rng), torch.arange(20000) % 2, 2, most=60)
    found = []
    for _ in range(600 // size):
        records, rows = gaussian(2 * size, rng), complementary(4, np.zeros(2 * size), draws)
        z = metric(records, torch.zeros(2 * size, dtype=torch.int64))
        kernel, plain = (z @ z.T).numpy(), (records @ records.T).numpy()
        compared = areas(leave_pairs_out(rows @ kernel / size, rows, None), rows).mean()
        found.append(
            (*areas_of_means(kernel, rows), compared, areas_of_means(plain, rows)[0], effective_directions(kernel))
        )
    alone, less_mean, by_lira, not_whitened, width = np.mean(found, axis=0)
    assert width == pytest.approx(60, rel=0.1)
    assert predicted_auc(60, size) == pytest.approx(float(ndtr(math.sqrt(60 / (2 * size)))))
    assert alone == pytest.approx(predicted_auc(60, size), abs=0.025)
    assert less_mean == pytest.approx(predicted_auc(60, size / 2), abs=0.025)
    assert less_mean - 0.05 < by_lira < less_mean + 0.01
    assert not_whitened < alone - 0.05


def test_few_public_records_hide_the_mean_unless_runs_are_compared():
    rng, rows = stream(0), complementary(12, np.zeros(200), numpy_stream(0))
    metric = Metric.fit(gaussian(150, rng), torch.arange(150) % 2, 2, most=60)
    z = metric(gaussian(200, rng), torch.zeros(200, dtype=torch.int64))
    alone, compared = areas_of_means((z @ z.T).numpy(), rows)
    assert alone < predicted_auc(60, 100) - 0.05
    assert compared > predicted_auc(60, 50) - 0.05


def test_align_and_distance_are_their_equations(tmp_path):
    audit = Audit(tmp_path, publish(4), fresh=mlp)
    found, view = laboratory(audit)
    released = audit.released(2, view.threat)
    images = found.reader.images(released)
    aligned, squares = np.zeros(40), np.zeros((40, len(images)))
    for index in range(3):
        network = mlp(Streams(0, ("membership",)).generator("random network", index))

        def embed(one: Images, network=network) -> torch.Tensor:
            return network.embed(view.public.normalise(one.pixels)).detach().double()

        public = embed(audit.auxiliary)
        means = [public[audit.auxiliary.labels == label].mean(0) for label in range(2)]
        residuals = public - torch.stack(means)[audit.auxiliary.labels]
        basis = torch.linalg.eigh(residuals.T @ residuals)[1][:, -8:]
        inverse = np.linalg.inv(ledoit_wolf((residuals @ basis).numpy(), assume_centered=True)[0])
        records, synthetic = ((embed(one) @ basis).numpy() for one in (audit.candidates, images))
        for i, label in enumerate(audit.candidates.labels.tolist()):
            centre = (means[label] @ basis).numpy()
            of_class = images.labels.numpy() == label
            aligned[i] += (records[i] - centre) @ inverse @ (synthetic[of_class].mean(0) - centre) / 3
            for j in range(len(images)):
                gap = records[i] - synthetic[j]
                squares[i, j] += gap @ inverse @ gap / 3 if of_class[j] else np.inf
    seen = [found.measure(name, released) for name in ("align", "nn_embedding")]
    assert np.allclose(seen[0], aligned, rtol=0, atol=1e-4)
    assert np.allclose(seen[1], -np.sqrt(squares.min(1)), rtol=0, atol=1e-3)


def test_a_class_without_images_is_not_measured(tmp_path):
    audit = Audit(tmp_path, lambda members, row: members.take(torch.flatten((members.labels == 0).nonzero())[:3]))
    found, view = laboratory(audit, CONFIG.model_copy(update={"random_networks": 1}))
    other = audit.candidates.labels.numpy() == 1
    for name in ("align", "nn_embedding", "nn_pixels"):
        values = found.measure(name, audit.released(1, view.threat))
        assert np.isnan(values[other]).all()
        assert np.isfinite(values[~other]).all()


def test_public_records_must_tell_something(tmp_path):
    audit = Audit(tmp_path, publish(4), auxiliary=noise_images(60, 1).take(torch.arange(0, 60, 2)))
    with pytest.raises(UserError, match="auxiliary records: none of class 1"):
        laboratory(audit)[0].measure("align", audit.released(0, LiRA(Config()).threat))
    grey = Images(torch.full((20, *SHAPE), 9, dtype=torch.uint8), torch.arange(20) % 2)
    audit = Audit(tmp_path, publish(4), auxiliary=grey)
    with pytest.raises(UserError, match="of which an embedding tells 0 directions"):
        laboratory(audit)[0].measure("align", audit.released(0, LiRA(Config()).threat))


def test_effective_directions_of_known_kernels():
    vectors = torch.randn((400, 12), generator=stream(0), dtype=torch.float64)
    assert effective_directions((vectors @ vectors.T).numpy()) == pytest.approx(12, rel=0.05)
    stretched = vectors * torch.tensor([3.0] + [0.0] * 11, dtype=torch.float64)
    assert effective_directions((stretched @ stretched.T).numpy()) == pytest.approx(1, rel=0.05)
    assert effective_directions(np.ones((1, 1))) == 0.0


def test_the_nearest_of_none_is_not_a_number():
    distances = torch.tensor([[1.0, 0.5], [torch.inf, torch.inf]], dtype=torch.float64)
    assert torch.equal(nearest_of(distances).isnan(), torch.tensor([False, True]))
    assert float(nearest_of(distances)[0]) == 0.5
