import numpy as np
import pytest
import scipy.stats

from simple_diffusion.evaluation.metrics import intervals


@pytest.mark.parametrize("successes, n", [(0, 10), (3, 10), (10, 10), (970, 1000)])
def test_wilson_agrees_with_scipy(successes, n):
    expected = scipy.stats.binomtest(successes, n).proportion_ci(0.95, "wilson")
    found = intervals.wilson(successes, n)
    np.testing.assert_allclose(found, [expected.low, expected.high], atol=1e-12)


def test_bootstrap_of_a_mean_is_the_normal_interval_for_many_values():
    values = np.random.default_rng(0).exponential(size=2000)
    half = 1.96 * values.std() / np.sqrt(2000)
    found = intervals.bootstrap(values)
    # Bounds from 2000 resamples are known to about 5 % of the half width.
    np.testing.assert_allclose(
        found, [values.mean() - half, values.mean() + half], atol=0.15 * half
    )


def test_bootstrap_agrees_with_scipy():
    values = np.random.default_rng(1).gamma(2, size=80)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", rng=0
    ).confidence_interval
    found = intervals.bootstrap(values, resamples=4000)
    width = expected.high - expected.low
    np.testing.assert_allclose(found, [expected.low, expected.high], atol=0.05 * width)


def test_bootstrap_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(2)
    covered = []
    for seed in range(300):
        low, high = intervals.bootstrap(rng.normal(size=60), resamples=400, seed=seed)
        covered.append(low < 0 < high)
    # 95 % of 300 have a standard error of 1.3 %; 60 values cost another 1 %.
    assert 0.90 < np.mean(covered) < 0.985


def test_the_seed_determines_the_interval_and_chunks_do_not_show(monkeypatch):
    values = np.random.default_rng(3).normal(size=50)
    whole = intervals.bootstrap(values)
    assert intervals.bootstrap(values) == whole
    assert intervals.bootstrap(values, seed=1) != whole
    monkeypatch.setattr(intervals, "_CHUNK", 170)
    assert intervals.bootstrap(values) == whole


def test_infinite_values_have_infinite_bounds():
    # The PSNR of equal images.
    assert intervals.bootstrap(np.full(10, np.inf)) == (np.inf, np.inf)
    low, high = intervals.bootstrap(np.array([30.0, 31.0, np.inf, 30.0]))
    assert 30 <= low <= 31 and high == np.inf


def test_values_that_say_nothing_are_errors():
    with pytest.raises(ValueError, match="at least 2 values, got 1.*evaluate.count"):
        intervals.bootstrap(np.ones(1))
    with pytest.raises(ValueError, match=r"1 of 3 values.*at \[1\]"):
        intervals.bootstrap(np.array([1, np.nan, 2]))
    for successes, n in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match=f"{successes} of {n} trials"):
            intervals.wilson(successes, n)
