import json

import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from simple_diffusion.evaluation.metrics import frechet, statistics
from tests.evaluation.metrics import make_metric_goldens as peers
from tests.vectors import vector

GOLDENS = json.loads(peers.GOLDENS.read_text())


def gaussian(mean, covariance, n=10**6):
    """Statistics whose mean and unbiased covariance are exactly those given."""
    return statistics.Statistics(n, np.asarray(mean), np.asarray(covariance) * (n - 1))


def spread(n, d, seed=0, count=2):
    return np.random.default_rng(seed).normal(size=(count, n, d))


@pytest.mark.parametrize("case", vector("metric.fid_analytic"))
def test_distance_of_isotropic_gaussians_is_the_closed_form(case):
    d = case["d"]
    mean = np.zeros(d)
    mean[0] = np.sqrt(case["m_norm2"])
    a = gaussian(np.zeros(d), np.eye(d))
    b = gaussian(mean, case["s"] ** 2 * np.eye(d))
    assert frechet.distance(a, b) == pytest.approx(case["value"], rel=1e-9)


def test_distance_agrees_with_the_matrix_root_of_scipy():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 12)), rng.normal(0.3, 2, size=(200, 12))
    a, b = statistics.compute(x @ rng.normal(size=(12, 12))), statistics.compute(y)
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance)
    expected = np.sum((a.mean - b.mean) ** 2) + np.trace(
        a.covariance + b.covariance - 2 * root.real
    )
    assert frechet.distance(a, b) == pytest.approx(expected, rel=1e-8)


@pytest.mark.filterwarnings("ignore:.*biased upwards")
@pytest.mark.parametrize("case", peers.CASES)
def test_both_routes_agree_with_other_libraries(case):
    # Their own roots of singular matrices are good to 1e-8 of the traces.
    x, y = peers.features(case)
    expected = [
        GOLDENS[case]["torch_fidelity"]["frechet_inception_distance"],
        GOLDENS[case]["clean_fid"]["frechet_distance"],
    ]
    found = [
        frechet.distance_of_features(x, y),
        frechet.distance(statistics.compute(x), statistics.compute(y)),
    ]
    for value in found:
        np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:.*biased upwards")
@pytest.mark.parametrize("n, m", [(20, 30), (20, 200), (200, 20), (200, 50), (50, 50)])
def test_the_distance_without_covariances_is_that_of_the_statistics(n, m):
    # Roots of what should be zero eigenvalues are where the statistics are less exact.
    x, y = spread(n, 50)[0], spread(m, 50, seed=1)[0] * np.linspace(0.5, 2, 50)
    found = frechet.distance_of_features(x, y + 1)
    expected = frechet.distance(statistics.compute(x), statistics.compute(y + 1))
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.filterwarnings("ignore:.*biased upwards")
@pytest.mark.parametrize("n, d", [(100, 8), (20, 50)])
def test_distance_of_a_set_to_itself_is_zero(n, d):
    x = spread(n, d)[0]
    # Without covariances the product of a factor with itself is not squared again.
    assert abs(frechet.distance_of_features(x, x)) < 1e-10
    a = statistics.compute(x)
    assert abs(frechet.distance(a, a)) < 1e-5


def test_distance_is_symmetric_and_ignores_a_rotation_and_the_order_of_rows():
    x, y = spread(60, 6)
    y = 1 + 2 * y
    rotation, _ = np.linalg.qr(spread(6, 6, count=1)[0])
    plain = frechet.distance_of_features(x, y)
    assert frechet.distance_of_features(y, x) == pytest.approx(plain, rel=1e-10)
    assert frechet.distance_of_features(x[::-1], y) == pytest.approx(plain, rel=1e-10)
    turned = frechet.distance_of_features(x @ rotation, y @ rotation)
    assert turned == pytest.approx(plain, rel=1e-9)


def test_distance_of_streamed_statistics_is_that_of_the_whole():
    x, y = spread(300, 10) + 100
    stream = statistics.zeros(10)
    for part in np.split(x, [1, 40, 222]):
        stream = statistics.merge(stream, statistics.compute(part))
    found = frechet.distance(stream, statistics.compute(y))
    assert found == pytest.approx(frechet.distance_of_features(x, y), rel=1e-9)


def test_a_dimension_without_variance_is_no_trouble():
    # Cholesky's factorisation ends there.
    x, y = spread(100, 5)
    y *= 2
    still = np.zeros((100, 1))
    found = frechet.distance_of_features(
        np.hstack([x, still]), np.hstack([y, still + 3])
    )
    assert found == pytest.approx(frechet.distance_of_features(x, y) + 9, rel=1e-8)


@pytest.mark.parametrize("n, expected, off", [(200, 510, 3), (1000, 133, 1.5)])
def test_small_samples_of_one_gaussian_are_as_far_apart_as_published(n, expected, off):
    # The true distance is 0; twenty draws lay within 2.5 and 1 of these.
    x, y = spread(n, 512)
    if n <= 512:
        with pytest.warns(
            UserWarning, match="200 features for 512 dim.*those that are evaluated"
        ):
            found = frechet.distance_of_features(x, y)
    else:
        found = frechet.distance_of_features(x, y)
    assert found == pytest.approx(expected, abs=off)


def test_extrapolation_takes_the_bias_away():
    # For equal Gaussians as for these, whose distance is known; by simulation single
    # values lie .1 and .15 around them.
    d, n = 32, 800
    scale = np.linspace(0.7, 1.3, d)
    true = np.sum((1 - scale) ** 2)
    for scales, expected in ((1, 0), (scale, true)):
        x, y = spread(n, d, seed=3)
        found = frechet.extrapolate(x, y * scales)
        plain = frechet.distance_of_features(x, y * scales)
        assert found.distances[-1] == pytest.approx(plain, rel=1e-9)
        assert plain > expected + 0.5
        assert found.value == pytest.approx(expected, abs=0.3)
        assert 0 < found.standard_error < 0.3


def test_extrapolation_is_exact_for_a_reference_that_is():
    d, n = 16, 2000
    x = spread(n, d, count=1)[0]
    reference = gaussian(np.full(d, 0.5), np.eye(d))
    found = frechet.extrapolate(x, reference, points=8, smallest=200, seed=1)
    assert found.sizes[[0, -1]].tolist() == [200, n] and len(found.sizes) == 8
    # The distance of n features has a standard error of about 2 |m| / sqrt(n) = .09.
    assert found.value == pytest.approx(0.25 * d, abs=0.3)
    again = frechet.extrapolate(x, reference, points=8, smallest=200, seed=1)
    np.testing.assert_array_equal(again.distances, found.distances)


def test_the_line_is_that_of_numpy():
    sizes = np.array([100, 150, 300, 500])
    distances = np.array([5.1, 3.9, 2.2, 1.9])
    found = frechet._fit_line(sizes, distances)
    _, value = np.polyfit(1 / sizes, distances, 1)
    assert found.value == pytest.approx(value, rel=1e-9)
    result = scipy.stats.linregress(1 / sizes, distances)
    assert found.standard_error == pytest.approx(result.intercept_stderr, rel=1e-9)


def test_standard_error_is_the_spread_of_repeated_draws():
    d, n = 8, 300
    rng = np.random.default_rng(0)
    mixing = np.eye(d) + rng.normal(size=(d, d)) / 4
    values, errors, fixed, fixed_errors = [], [], [], []
    reference = gaussian(np.full(d, 0.3), mixing.T @ mixing)
    for _ in range(200):
        x = rng.normal(size=(n, d))
        y = rng.normal(size=(2 * n, d)) @ mixing + 0.3
        values.append(frechet.distance_of_features(x, y))
        errors.append(frechet.standard_error(x, y))
        fixed.append(frechet.distance(statistics.compute(x), reference))
        fixed_errors.append(frechet.standard_error(x, reference))
    # A spread of 200 values is itself known to 5 %.
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.15)
    assert np.mean(fixed_errors) == pytest.approx(np.std(fixed), rel=0.15)


def test_standard_error_takes_a_dimension_without_variance():
    x, y = spread(100, 4)
    y = 2 * y + 1
    still = np.zeros((100, 1))
    found = frechet.standard_error(np.hstack([x, still]), np.hstack([y, still]))
    assert found == pytest.approx(frechet.standard_error(x, y), rel=1e-9)


def test_bad_features_and_statistics_are_named():
    x, y = spread(20, 3)
    with pytest.raises(ValueError, match="3 and of 2 dimensions"):
        frechet.distance_of_features(x, y[:, :2])
    with pytest.raises(ValueError, match="3 and of 2 dimensions"):
        frechet.distance(statistics.compute(x), statistics.compute(y[:, :2]))
    with pytest.raises(ValueError, match=r"got 1 real.*evaluate.reference_count"):
        frechet.distance_of_features(x, y[:1])
    broken = y.copy()
    broken[[4, 7], 1] = np.nan, np.inf
    with pytest.raises(ValueError, match=r"2 of 20 real features.*rows \[4, 7\]"):
        frechet.distance_of_features(x, broken)
    unknown = gaussian(np.full(3, np.nan), np.eye(3), n=7)
    for function in (frechet.extrapolate, frechet.standard_error):
        with pytest.raises(ValueError, match="statistics of 7 features are not finite"):
            function(x, unknown)
    with pytest.raises(ValueError, match="statistics of 7 features are not finite"):
        frechet.distance(statistics.compute(x), unknown)
    with pytest.raises(ValueError, match="got 3 generated.*at least 4.*evaluate.count"):
        frechet.standard_error(x[:3], y)


def test_too_few_for_an_extrapolation_is_an_error():
    x, y = spread(20, 12)
    with pytest.raises(ValueError, match="20 features of 12 dim.*evaluate.count"):
        frechet.extrapolate(x, y)
    with pytest.raises(ValueError, match="at least 3 points, got 2"):
        frechet.extrapolate(x, y, points=2)
