import json

import numpy as np
import pytest

from simple_diffusion.evaluation.metrics import kernel_distance
from tests.evaluation.metrics import make_metric_goldens as peers

GOLDENS = json.loads(peers.GOLDENS.read_text())


def test_the_estimate_is_the_sum_over_pairs_of_different_features():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(4, 3))

    def kernel(a, b):
        return (a @ b / 3 + 1) ** 3

    within = [
        np.mean([kernel(f[i], f[j]) for i, j in np.ndindex(n, n) if i != j])
        for f, n in ((x, 5), (y, 4))
    ]
    across = np.mean([kernel(a, b) for a in x for b in y])
    expected = sum(within) - 2 * across
    assert kernel_distance.unbiased_estimate(x, y) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("case", peers.CASES)
def test_value_and_deviation_agree_with_other_libraries(case):
    x, y = peers.features(case)
    found = kernel_distance.distance(
        x, y, subsets=peers.SUBSETS, subset_size=peers.SUBSET_SIZE, seed=peers.SEED
    )
    fidelity = GOLDENS[case]["torch_fidelity"]
    # Sums of kernels of the order of 1 cancel, in another order: 1e-15 over 1e-2.
    expected = fidelity["kernel_inception_distance_mean"]
    assert found.value == pytest.approx(expected, rel=1e-10)
    assert found.value == pytest.approx(
        GOLDENS[case]["clean_fid"]["kernel_distance"], rel=1e-10
    )
    expected = fidelity["kernel_inception_distance_std"]
    assert found.subset_deviation == pytest.approx(expected, rel=1e-10)


def test_the_distance_of_two_points_is_the_closed_form():
    # For unit vectors e and coordinates of variance 1, a point mass at a e against one
    # at b e: (a^2/d + 1)^3 + (b^2/d + 1)^3 - 2 (a b/d + 1)^3.
    d, a, b = 4, 1.0, 3.0
    x, y = np.zeros((10, d)), np.zeros((12, d))
    x[:, 0], y[:, 0] = a, b
    expected = (a * a / d + 1) ** 3 + (b * b / d + 1) ** 3 - 2 * (a * b / d + 1) ** 3
    assert kernel_distance.unbiased_estimate(x, y) == pytest.approx(expected, rel=1e-12)


def test_it_is_unbiased_around_zero_and_negative_at_times():
    rng = np.random.default_rng(0)
    values = [
        kernel_distance.unbiased_estimate(*rng.normal(size=(2, 30, 8)))
        for _ in range(400)
    ]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error
    assert 0.2 < np.mean(np.array(values) < 0) < 0.8
    # The biased one, with the diagonals, is nowhere near: E (|x|^2 / d + 1)^3 > 8.
    assert error < 0.01


@pytest.mark.parametrize("shift, low, high", [(0.5, 0.8, 1.2), (0.0, 1.0, 1.7)])
@pytest.mark.parametrize("most", [10_000, 200])
def test_standard_error_is_the_spread_of_repeated_draws(
    shift, low, high, most, monkeypatch
):
    # Up to sqrt(2) too large where distributions are equal, more from a part of the
    # features. A spread of 150 values is itself known to 6 %.
    monkeypatch.setattr(kernel_distance, "_MAX_FEATURES", most)
    if most < 300 and not shift:
        high = 2.2
    rng = np.random.default_rng(1)
    found = []
    for _ in range(150):
        x, y = rng.normal(size=(300, 4)), rng.normal(size=(400, 4)) + shift
        found.append(kernel_distance.distance(x, y, subsets=20, subset_size=100))
    ratio = np.mean([f.standard_error for f in found]) / np.std(
        [f.value for f in found]
    )
    assert low < ratio < high


def test_the_deviation_over_subsets_is_not_the_standard_error():
    # Four times the features halve the one and leave the other.
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2, 3200, 4))
    y = y + 0.5
    small = kernel_distance.distance(x[:800], y[:800], subset_size=100)
    large = kernel_distance.distance(x, y, subset_size=100)
    deviations = large.subset_deviation / small.subset_deviation
    assert 0.7 < deviations < 1.4
    assert large.standard_error < 0.8 * small.standard_error
    assert large.standard_error < 0.5 * large.subset_deviation


def test_it_ignores_a_rotation():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, 50, 6))
    rotation, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    plain = kernel_distance.distance(x, y, subsets=3)
    turned = kernel_distance.distance(x @ rotation, y @ rotation, subsets=3)
    np.testing.assert_allclose(turned, plain, rtol=1e-9, atol=1e-12)


def test_a_seed_determines_the_subsets_and_all_is_the_largest_subset():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(40, 5)), rng.normal(size=(40, 5)) + 1
    draw = {"subsets": 4, "subset_size": 10}
    first = kernel_distance.distance(x, y, **draw)
    assert kernel_distance.distance(x, y, **draw) == first
    assert kernel_distance.distance(x, y, **draw, seed=1).value != first.value
    whole = kernel_distance.distance(x, y, subsets=4)
    assert whole.value == pytest.approx(
        kernel_distance.unbiased_estimate(x, y), rel=1e-12
    )
    assert whole.subset_deviation == pytest.approx(0, abs=1e-12)
    assert whole.standard_error > 0


def test_bad_features_are_named():
    x, y = np.zeros((2, 10, 3))
    with pytest.raises(ValueError, match="3 and of 2 dimensions"):
        kernel_distance.distance(x, y[:, :2])
    with pytest.raises(ValueError, match="got 1 generated.*at least 2.*evaluate.count"):
        kernel_distance.distance(x[:1], y)
    with pytest.raises(ValueError, match="1 subset of 2 features, got 0 of 1000"):
        kernel_distance.distance(x, y, subsets=0)
    y[3] = np.nan
    with pytest.raises(ValueError, match=r"1 of 10 real features.*rows \[3\]"):
        kernel_distance.distance(x, y)
