import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from simple_diffusion.core import images, rng
from simple_diffusion.diffusion import (
    likelihood,
    process,
    schedules,
    time_distributions,
)
from tests.gaussian import Gaussian

LEVELS = images.to_unit_range(jnp.arange(256, dtype=jnp.uint8).reshape(256, 1, 1))[
    :, 0, 0
]

COSINE = schedules.cosine()


def at(logsnr, x):
    return jnp.full(x.shape[:1], logsnr, jnp.float32)


@pytest.mark.parametrize("logsnr", [-15.0, -5.0, 0.0, 3.0])
def test_prior_is_the_divergence_of_two_gaussians(logsnr):
    x = jax.random.uniform(jax.random.key(0), (3, 4, 4, 2), minval=-1.0)
    variance = scipy.special.expit(-logsnr)
    squared_mean = scipy.special.expit(logsnr) * np.asarray(x, np.float64) ** 2
    nats = 0.5 * (squared_mean + variance - 1 - np.log(variance))
    got = likelihood.prior(x, at(logsnr, x))
    np.testing.assert_allclose(got, nats.mean((1, 2, 3)) / np.log(2), rtol=1e-5)


@pytest.mark.parametrize("logsnr", [-30.0, 2.0, 8.0, 12.0, 15.0])
def test_reconstruction_is_a_softmax_over_the_levels(logsnr):
    x = jax.random.choice(jax.random.key(1), LEVELS, (2, 5, 5, 3))
    eps = jax.random.normal(jax.random.key(2), x.shape)
    got = likelihood.reconstruction(x, eps, at(logsnr, x))

    z = np.asarray(x, np.float64) + np.exp(-0.5 * logsnr) * np.asarray(eps, np.float64)
    levels = np.arange(256) / 127.5 - 1
    logits = -0.5 * np.exp(logsnr) * (z[..., None] - levels) ** 2
    log_p = scipy.special.log_softmax(logits, axis=-1)
    truth = np.rint((np.asarray(x) + 1) * 127.5).astype(int)[..., None]
    bits = -np.take_along_axis(log_p, truth, axis=-1)[..., 0] / np.log(2)
    # Float32 knows the levels to 6e-8, of which this ratio makes 1e-4.
    np.testing.assert_allclose(got, bits.mean((1, 2, 3)), rtol=1e-4, atol=1e-4)


def test_reconstruction_from_pure_noise_costs_all_eight_bits():
    x = jax.random.choice(jax.random.key(3), LEVELS, (2, 3, 3, 1))
    eps = jax.random.normal(jax.random.key(4), x.shape)
    got = likelihood.reconstruction(x, eps, at(-30.0, x))
    np.testing.assert_allclose(got, 8.0, rtol=1e-5)


@pytest.mark.parametrize("family", [process.VP, process.FLOW], ids=["vp", "flow"])
def test_diffusion_of_gaussian_data_is_half_a_logarithm(family):
    # With the exact denoiser E_eps = s^2 SNR / (1 + s^2 SNR), whose integral over
    # logsnr is log(1 + s^2 SNR): between the ends, the information that z carries about
    # x.
    data, low, high, n = Gaussian(), -8.0, 6.0, 4096
    u_key, x_key, eps_key = jax.random.split(jax.random.key(5), 3)
    x = data.mean + data.std * jax.random.normal(x_key, (n, 4, 4, 1))
    eps = jax.random.normal(eps_key, x.shape)
    logsnr = low + (high - low) * time_distributions.stratified().sample(u_key, n)
    integrand = likelihood.diffusion(data.denoiser(family), x, eps, logsnr, family)
    wanted = 0.5 * np.diff(np.log2(1 + data.std**2 * np.exp([low, high])))[0]
    # 65536 squared normals of uneven size: a standard error of 0.6 %.
    np.testing.assert_allclose((high - low) * integrand.mean(), wanted, rtol=0.02)


def test_bound_with_the_exact_denoiser_is_the_entropy_of_the_data():
    # Pixels of the 256 levels with the frequencies of a Gaussian. Their posterior mean
    # is a sum over the levels, and nothing is lost: the bound is tight.
    log_p = scipy.stats.norm(0.1, 0.3).logpdf(np.arange(256) / 127.5 - 1)
    log_p = log_p - scipy.special.logsumexp(log_p)
    p = np.exp(log_p)
    entropy = -np.sum(p * log_p) / np.log(2)

    def denoise(z, logsnr):
        alpha, sigma = process.expand(process.VP, logsnr, z)
        distance = (z - alpha * LEVELS.reshape(1, 1, 1, 256)) / sigma
        logits = jnp.asarray(log_p, jnp.float32).reshape(1, 1, 1, 256)
        weights = jax.nn.softmax(logits - 0.5 * jnp.square(distance))
        return jnp.sum(weights * LEVELS.reshape(1, 1, 1, 256), axis=-1, keepdims=True)

    n = 2048
    u_key, x_key, key = jax.random.split(jax.random.key(6), 3)
    x = jax.random.choice(x_key, LEVELS, (n, 4, 4, 1), p=jnp.asarray(p, jnp.float32))
    u = time_distributions.stratified().sample(u_key, n)
    keys = rng.derive_example_keys(key, jnp.arange(n))
    got = jax.jit(lambda x, u: likelihood.bound(denoise, x, COSINE, u, keys))(x, u)
    # 32768 squared normals of uneven size: a standard error of 0.8 %.
    np.testing.assert_allclose(got.total.mean(), entropy, rtol=0.03)
    assert got.prior.max() < 1e-3
    assert got.reconstruction.max() < 1e-3


def test_bound_ends_where_the_schedule_does():
    n, schedule = 512, schedules.cosine(-4.0, 9.0)
    x = jax.random.choice(jax.random.key(9), LEVELS, (n, 4, 4, 1))
    keys = rng.derive_example_keys(jax.random.key(10), jnp.arange(n))
    u = jnp.arange(n) / n
    got = likelihood.bound(Gaussian().denoiser(), x, schedule, u, keys)
    np.testing.assert_allclose(got.prior, likelihood.prior(x, at(-4.0, x)), rtol=1e-5)
    eps = jax.random.normal(jax.random.key(11), x.shape)
    wanted = likelihood.reconstruction(x, eps, at(9.0, x)).mean()
    assert wanted > 0.5  # a noise of 1.4 levels
    # 8192 pixels, half a bit each, give or take.
    np.testing.assert_allclose(got.reconstruction.mean(), wanted, rtol=0.05)


def test_bound_of_an_image_does_not_depend_on_its_batch():
    x = jax.random.choice(jax.random.key(7), LEVELS, (4, 3, 3, 1))
    u = jnp.array([0.1, 0.4, 0.6, 0.9])
    keys = rng.derive_example_keys(jax.random.key(8), jnp.arange(4))
    denoise = Gaussian().denoiser()
    bound = jax.jit(lambda x, u, keys: likelihood.bound(denoise, x, COSINE, u, keys))
    together, alone = bound(x, u, keys), bound(x[2:3], u[2:3], keys[2:3])
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(a[2:3], b, rtol=1e-5, atol=1e-6)


def test_total_is_the_sum_of_the_parts():
    parts = jnp.array([[1.0, 2.0], [0.25, 0.5], [3.0, 4.0]])
    np.testing.assert_allclose(likelihood.Bound(*parts).total, [4.25, 6.5])


def test_the_bound_does_not_depend_on_the_scale_of_z():
    x = jax.random.choice(jax.random.key(7), LEVELS, (4, 3, 3, 1))
    u = jnp.array([0.1, 0.4, 0.6, 0.9])
    keys = rng.derive_example_keys(jax.random.key(8), jnp.arange(4))
    vp, flow = (
        likelihood.bound(Gaussian().denoiser(f), x, COSINE, u, keys, f).total
        for f in (process.VP, process.FLOW)
    )
    np.testing.assert_allclose(vp, flow, rtol=1e-3)
