import json

import numpy as np
import pytest
import scipy.spatial.distance

from simple_diffusion.evaluation.metrics import manifold, pairwise
from tests.evaluation.metrics import make_metric_goldens as peers

GOLDENS = json.loads(peers.GOLDENS.read_text())


def means(*sets, **how):
    return np.array([array.mean() for array in manifold.compare(*sets, **how)])


@pytest.mark.parametrize("size", [2**22, 20000])
@pytest.mark.parametrize("k", peers.NEIGHBOURS)
@pytest.mark.parametrize("case", peers.CASES)
def test_all_four_agree_with_other_libraries(case, k, size, monkeypatch):
    # Shares of whole examples: equal but for the last digit of a division.
    monkeypatch.setattr(pairwise, "_BLOCK", size)
    x, y = peers.features(case)
    found = means(x, y, neighbours=k, density_neighbours=k)
    expected = GOLDENS[case]["prdc"][str(k)]
    names = "precision", "recall", "density", "coverage"
    np.testing.assert_allclose(found, [expected[n] for n in names], rtol=1e-12)
    if k == 3:
        fidelity = [GOLDENS[case]["torch_fidelity"][n] for n in names[:2]]
        np.testing.assert_allclose(found[:2], fidelity, rtol=1e-6)  # float32 means


def test_every_example_agrees_with_the_definition():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 3)), rng.normal(0.5, 1.3, size=(80, 3))
    cross = scipy.spatial.distance.cdist(x, y)
    real = np.sort(scipy.spatial.distance.cdist(y, y), axis=1)  # itself comes first
    generated = np.sort(scipy.spatial.distance.cdist(x, x), axis=1)
    found = manifold.compare(x, y, neighbours=2, density_neighbours=4)
    inside = cross <= real[:, 4]
    np.testing.assert_array_equal(found.precision, (cross <= real[:, 2]).any(1))
    np.testing.assert_array_equal(found.recall, (cross <= generated[:, 2, None]).any(0))
    np.testing.assert_array_equal(found.density, inside.sum(1) / 4)
    np.testing.assert_array_equal(found.coverage, inside.any(0))


def test_sets_far_apart_have_nothing_in_common():
    x, y = np.random.default_rng(1).normal(size=(2, 50, 4))
    np.testing.assert_array_equal(means(x, y + 100), [0, 0, 0, 0])


@pytest.mark.parametrize("copies", [1, 3])
def test_a_set_covers_itself(copies):
    # The bounds of its balls go through its own features, and where there are as many
    # copies as neighbours the balls have no size: only closed ones, up to rounding, do.
    x = np.random.default_rng(2).normal(size=(50, 16)) + 10
    x = np.repeat(x, copies, axis=0)
    found = means(x, x, neighbours=2, density_neighbours=2)
    np.testing.assert_array_equal(found[[0, 1, 3]], 1)
    # Each ball holds its own feature and the 2 next, which is 1.5 too in copies of 3.
    assert found[2] == 1.5


def test_precision_and_recall_exchange_with_the_sets():
    x, y = peers.features("few")
    there, back = manifold.compare(x, y), manifold.compare(y, x)
    np.testing.assert_array_equal(there.precision, back.recall)
    np.testing.assert_array_equal(there.recall, back.precision)


def test_all_ignore_a_rotation_and_follow_a_permutation():
    x, y = peers.features("many")
    rng = np.random.default_rng(3)
    rotation, _ = np.linalg.qr(rng.normal(size=(48, 48)))
    order = rng.permutation(len(x))
    plain = manifold.compare(x, y)
    turned = manifold.compare((x @ rotation)[order], y @ rotation)
    np.testing.assert_array_equal(turned.precision, plain.precision[order])
    np.testing.assert_array_equal(turned.density, plain.density[order])
    np.testing.assert_array_equal(turned.recall, plain.recall)
    np.testing.assert_array_equal(turned.coverage, plain.coverage)


def test_density_and_coverage_of_one_distribution_have_their_closed_forms():
    # Naeem et al. 2020, lemma 2: of n + m exchangeable features the k + 1 nearest to a
    # real one must not all be real. Any distribution will do.
    n, m, k = 40, 60, 4
    rng = np.random.default_rng(4)
    draws = [
        means(*(rng.exponential(size=(c, 3)) for c in (n, m)), density_neighbours=k)
        for _ in range(200)
    ]
    draws = np.array(draws)[:, 2:]
    first = np.arange(1, k + 1)
    expected = [1, 1 - np.prod((m - first) / (n + m - first))]
    error = draws.std(0) / np.sqrt(len(draws))
    np.testing.assert_array_less(np.abs(draws.mean(0) - expected), 3 * error)
    assert (error < 0.02).all()


def test_a_lost_mode_costs_recall_and_noise_costs_precision():
    rng = np.random.default_rng(5)
    centres = 20 * np.eye(4)[np.arange(200) % 4]
    real = centres + rng.normal(size=(200, 4))
    lost = centres[np.arange(200) % 2] + rng.normal(size=(200, 4))
    noisy = centres + 8 * rng.normal(size=(200, 4))
    good = means(centres + rng.normal(size=(200, 4)), real)
    lost, noisy = means(lost, real), means(noisy, real)
    assert lost[1] < 0.6 < 0.85 < good[1] and lost[0] > 0.85
    assert lost[3] < 0.6 < 0.9 < good[3]
    assert noisy[0] < 0.5 < 0.85 < good[0] and noisy[2] < 0.5 < good[2]


def test_bad_features_are_named():
    x, y = np.random.default_rng(6).normal(size=(2, 9, 3))
    with pytest.raises(ValueError, match="3 and of 2 dimensions"):
        manifold.compare(x, y[:, :2])
    with pytest.raises(
        ValueError,
        match="got 5 real.*at least 6; raise evaluate.reference_count or lower "
        "evaluate.neighbours=5",
    ):
        manifold.compare(x, y[:5])
    with pytest.raises(
        ValueError, match="got 3 gener.*at least 4; raise evaluate.count"
    ):
        manifold.compare(x[:3], y, density_neighbours=2)
    with pytest.raises(ValueError, match="evaluate.neighbours must be positive, got 0"):
        manifold.compare(x, y, neighbours=0)
    x[2] = np.inf
    with pytest.raises(ValueError, match=r"1 of 9 generated features.*rows \[2\]"):
        manifold.compare(x, y)
