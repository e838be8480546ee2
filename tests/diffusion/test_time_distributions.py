import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from simple_diffusion.diffusion import time_distributions

DISTRIBUTIONS = {
    "uniform": time_distributions.uniform(),
    "stratified": time_distributions.stratified(),
    "logit-normal": time_distributions.logit_normal(0.8, 0.8),
    "wide logit-normal": time_distributions.logit_normal(-1.0, 3.0),
}
every_distribution = pytest.mark.parametrize(
    "distribution", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS.keys()
)


@every_distribution
def test_density_integrates_to_one(distribution):
    # In logit(t), where no distribution has a singular end.
    logit = np.linspace(-15.0, 15.0, 4001)
    t = 1 / (1 + np.exp(-logit))
    density = np.exp(np.asarray(distribution.log_density(jnp.asarray(t, jnp.float32))))
    np.testing.assert_allclose(np.trapezoid(density * t * (1 - t), logit), 1, rtol=2e-3)


@every_distribution
def test_samples_follow_the_density(distribution):
    t = np.asarray(distribution.sample(jax.random.key(0), 20_000), np.float64)
    assert np.all((t >= 0) & (t <= 1))
    logit = np.linspace(-15.0, 15.0, 8001)
    at = 1 / (1 + np.exp(-logit))
    density = np.exp(np.asarray(distribution.log_density(jnp.asarray(at, jnp.float32))))
    mass = np.cumsum(density * at * (1 - at)) * (logit[1] - logit[0])
    result = scipy.stats.kstest(t, lambda v: np.interp(v, at, mass))
    assert result.pvalue > 1e-3


@pytest.mark.parametrize("n", [1, 7, 64])
def test_each_stratum_holds_one_time(n):
    # Wherever the strata begin, sorted times have gaps of exactly 1/n.
    t = np.sort(DISTRIBUTIONS["stratified"].sample(jax.random.key(1), n))
    np.testing.assert_allclose(np.diff(t), 1 / n, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["stratified", "logit-normal"])
def test_each_position_of_a_batch_sees_the_whole_law(name):
    keys = jax.random.split(jax.random.key(2), 2000)
    t = jax.vmap(lambda key: DISTRIBUTIONS[name].sample(key, 4))(keys)
    one_by_one = DISTRIBUTIONS[name].sample(jax.random.key(3), 2000)
    for k in range(4):
        assert scipy.stats.ks_2samp(t[:, k], one_by_one).pvalue > 1e-3


def test_neighbours_in_a_batch_may_be_from_any_two_strata():
    keys = jax.random.split(jax.random.key(6), 200)
    t = jax.vmap(lambda key: DISTRIBUTIONS["stratified"].sample(key, 4))(keys)
    gaps = np.rint(4 * ((t[:, 1] - t[:, 0]) % 1.0)).astype(int) % 4
    # Of the three, each has a third of the 200.
    assert np.all(np.bincount(gaps, minlength=4)[1:] > 40)
    assert np.all(gaps > 0)


def test_logit_of_logit_normal_is_normal():
    t = np.asarray(
        DISTRIBUTIONS["logit-normal"].sample(jax.random.key(4), 10_000), np.float64
    )
    logit = np.log(t / (1 - t))
    # Strata leave the mean far less noise than 0.8 / sqrt(10000).
    np.testing.assert_allclose(logit.mean(), 0.8, atol=2e-3)
    np.testing.assert_allclose(logit.std(), 0.8, atol=5e-3)


def test_no_draw_of_a_wide_law_has_an_infinite_density():
    distribution = time_distributions.logit_normal(5.0, 6.0)
    t = distribution.sample(jax.random.key(5), 10_000)
    assert np.all(np.isfinite(distribution.log_density(t)))
