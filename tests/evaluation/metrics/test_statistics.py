import numpy as np
import pytest

from simple_diffusion.evaluation.metrics import statistics


def test_streamed_statistics_equal_those_of_the_whole():
    # A large mean is where float32 or an uncentred sum of squares fails.
    features = np.random.default_rng(0).normal(1e4, 1, (1000, 7)).astype(np.float32)
    stream = statistics.zeros(7)
    for part in np.split(features, [3, 50, 51, 700]):
        stream = statistics.merge(stream, statistics.compute(part))
    whole = features.astype(np.float64)
    assert stream.n == 1000
    np.testing.assert_allclose(stream.mean, whole.mean(0), rtol=1e-12)
    np.testing.assert_allclose(
        stream.covariance, np.cov(whole, rowvar=False), rtol=1e-8, atol=1e-10
    )


def test_features_that_are_not_finite_are_named_by_row():
    features = np.zeros((5, 2))
    features[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"rows \[3\]"):
        statistics.compute(features)


def test_one_feature_has_no_covariance():
    with pytest.raises(ValueError, match="at least 2"):
        _ = statistics.compute(np.zeros((1, 2))).covariance
