import numpy as np
import pytest
import scipy.linalg

from simple_diffusion.evaluation import metrics, statistics
from tests.vectors import vector


def gaussian(mean, covariance, n=10**6):
    """Statistics whose mean and unbiased covariance are exactly those given."""
    return statistics.Statistics(n, np.asarray(mean), np.asarray(covariance) * (n - 1))


@pytest.mark.parametrize("case", vector("metric.fid_analytic"))
def test_frechet_distance_of_isotropic_gaussians_is_the_closed_form(case):
    d = case["d"]
    mean = np.zeros(d)
    mean[0] = np.sqrt(case["m_norm2"])
    a = gaussian(np.zeros(d), np.eye(d))
    b = gaussian(mean, case["s"] ** 2 * np.eye(d))
    assert metrics.frechet_distance(a, b) == pytest.approx(case["value"], rel=1e-9)


def test_frechet_distance_agrees_with_the_matrix_root_of_scipy():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 12)), rng.normal(0.3, 2, size=(200, 12))
    mixing = rng.normal(size=(12, 12))
    a, b = statistics.of(x @ mixing), statistics.of(y)
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance)
    expected = np.sum((a.mean - b.mean) ** 2) + np.trace(
        a.covariance + b.covariance - 2 * root.real
    )
    assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_of_a_set_to_itself_is_zero():
    a = statistics.of(np.random.default_rng(0).normal(size=(100, 8)))
    assert abs(metrics.frechet_distance(a, a)) < 1e-10


def test_frechet_distance_is_symmetric():
    rng = np.random.default_rng(1)
    a = statistics.of(rng.normal(size=(50, 4)))
    b = statistics.of(rng.normal(1, 2, size=(50, 4)))
    assert metrics.frechet_distance(a, b) == pytest.approx(
        metrics.frechet_distance(b, a), rel=1e-10
    )


def test_frechet_distance_ignores_a_rotation_of_both():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(60, 6)), rng.normal(1, 2, size=(60, 6))
    rotation, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    plain = metrics.frechet_distance(statistics.of(x), statistics.of(y))
    turned = metrics.frechet_distance(
        statistics.of(x @ rotation), statistics.of(y @ rotation)
    )
    assert turned == pytest.approx(plain, rel=1e-9)


def test_too_few_features_warn_and_name_the_key():
    rng = np.random.default_rng(3)
    a, b = (
        statistics.of(rng.normal(size=(5, 8))),
        statistics.of(rng.normal(size=(9, 8))),
    )
    with pytest.warns(UserWarning, match="evaluate.count"):
        metrics.frechet_distance(a, b)


def test_features_of_other_dimensions_do_not_compare():
    a, b = gaussian(np.zeros(2), np.eye(2)), gaussian(np.zeros(3), np.eye(3))
    with pytest.raises(ValueError, match="2 and of 3 dimensions"):
        metrics.frechet_distance(a, b)
