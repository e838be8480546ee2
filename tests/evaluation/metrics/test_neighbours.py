import numpy as np
import pytest
import scipy.spatial

from simple_diffusion.evaluation.metrics import neighbours


def sets(seed=0, d=6):
    """Samples, training and held-out features of one distribution."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) for n in (400, 1000, 500))


def test_nearest_agree_with_a_search_tree():
    samples, training, _ = sets()
    expected, order = scipy.spatial.cKDTree(training).query(samples, k=5)
    found = neighbours.find_nearest(samples.astype(np.float32), training)
    # float32 rounds the samples, which exchanges no neighbours here.
    np.testing.assert_array_equal(found.indices, order)
    np.testing.assert_allclose(found.distances, expected, rtol=1e-5)


def test_samples_of_the_distribution_are_no_nearer_than_held_out_images():
    found = neighbours.measure_memorisation(*sets())
    # The share of 400 has a standard error of .011, the percentile itself of .010.
    assert found.share == pytest.approx(0.05, abs=0.045)
    assert found.ratio == pytest.approx(1, abs=0.06)
    assert len(found.copies) == 0
    below = np.mean(found.held_out < found.threshold)
    assert below == pytest.approx(0.05, abs=0.003)


def test_repeated_training_images_are_found():
    samples, training, held_out = sets(1)
    rng = np.random.default_rng(0)
    rows = rng.choice(1000, 100, replace=False)
    samples[:100] = training[rows]
    # As float32 would leave them, and as a slightly noisy copy.
    samples[10:20] *= 1 + 1e-6
    samples[20:100] += 0.1 * rng.normal(size=(80, 6))
    found = neighbours.measure_memorisation(samples, training, held_out)
    assert sorted(found.copies.tolist()) == list(range(20))
    np.testing.assert_array_equal(found.distances[:10], 0)
    assert set(found.copies[:10].tolist()) == set(range(10))  # nearest first
    np.testing.assert_array_equal(found.indices[:20], rows[:20])
    assert found.share == pytest.approx(100 / 400 + 0.05 * 0.75, abs=0.04)


def test_a_model_that_only_repeats_has_a_ratio_near_zero():
    samples, training, held_out = sets(2)
    found = neighbours.measure_memorisation(training[:400] + 0.01, training, held_out)
    assert found.share == 1 and found.ratio < 0.05


def test_the_percentile_moves_the_threshold():
    shares = [
        neighbours.measure_memorisation(*sets(3), percentile=p).share
        for p in (1, 10, 50)
    ]
    assert shares[0] < shares[1] < shares[2] == pytest.approx(0.5, abs=0.1)


def test_data_that_repeat_themselves_accuse_nobody():
    _, training, _ = sets()
    found = neighbours.measure_memorisation(training[:50], training, training[50:99])
    assert found.ratio == 1 and found.share == 0
    samples = training[:50] + 1
    assert (
        neighbours.measure_memorisation(samples, training, training[50:99]).ratio
        == np.inf
    )


def test_bad_features_are_named():
    samples, training, held_out = sets()
    with pytest.raises(ValueError, match="6 and of 5 dimensions"):
        neighbours.find_nearest(samples, training[:, :5])
    with pytest.raises(ValueError, match="5 and of 6 dimensions"):
        neighbours.measure_memorisation(samples, training, held_out[:, :5])
    with pytest.raises(
        ValueError,
        match="got 3 training.*at least 5; raise evaluate.reference_count or lower "
        "evaluate.neighbours=5",
    ):
        neighbours.find_nearest(samples, training[:3])
    with pytest.raises(ValueError, match="evaluate.neighbours must be positive, got 0"):
        neighbours.find_nearest(samples, training, 0)
    with pytest.raises(ValueError, match="got 0 held-out features"):
        neighbours.measure_memorisation(samples, training, held_out[:0])
    with pytest.raises(ValueError, match="between 0 and 100, got 100"):
        neighbours.measure_memorisation(samples, training, held_out, percentile=100)
    held_out[5] = np.nan
    with pytest.raises(ValueError, match=r"1 of 500 held-out features.*rows \[5\]"):
        neighbours.measure_memorisation(samples, training, held_out)
