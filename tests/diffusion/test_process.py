import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.diffusion import process
from tests.vectors import vector

both_families = pytest.mark.parametrize(
    "family", [process.VP, process.FLOW], ids=["vp", "flow"]
)
# Noisy and clean ends of steps short and long, over all of [-20, 20].
PAIRS = np.array(
    [
        (t, t + step)
        for t in np.linspace(-20, 20, 41)
        for step in (1e-4, 1e-2, 0.3, 1.0, 5.0, 40.0)
        if t + step <= 20
    ],
    np.float32,
)


def exact(family, logsnr):
    """Alpha and sigma in float64, by another formula."""
    ratio = np.exp(-0.5 * np.asarray(logsnr, np.float64))  # sigma / alpha
    alpha = 1 / np.sqrt(1 + ratio**2) if family is process.VP else 1 / (1 + ratio)
    return alpha, alpha * ratio


@both_families
def test_amplitudes_are_accurate_to_their_last_digits(family):
    logsnr = np.linspace(-20, 20, 4001).astype(np.float32)
    alpha, sigma = family.alpha_sigma(jnp.asarray(logsnr))
    wanted_alpha, wanted_sigma = exact(family, logsnr)
    np.testing.assert_allclose(alpha, wanted_alpha, rtol=5e-7)
    np.testing.assert_allclose(sigma, wanted_sigma, rtol=5e-7)


def test_vp_matches_the_table():
    for name in ("schedule.alpha_sigma", "schedule.alpha_sigma_shift64_at_256"):
        for row in vector(name):
            alpha, sigma = process.VP.alpha_sigma(jnp.float32(row["logsnr"]))
            np.testing.assert_allclose(alpha, row["alpha"], rtol=1e-6)
            np.testing.assert_allclose(sigma, row["sigma"], rtol=1e-6)


def test_flow_is_vp_rescaled_to_a_straight_line():
    for row in vector("schedule.flow_matching"):
        logsnr = jnp.float32(row["logsnr"])
        np.testing.assert_allclose(
            process.FLOW.alpha_sigma(logsnr), [1 - row["t"], row["t"]], rtol=2e-6
        )
        np.testing.assert_allclose(
            process.VP.alpha_sigma(logsnr),
            [row["alpha_vp"], row["sigma_vp"]],
            rtol=2e-6,
        )
        scale = np.array(process.FLOW.alpha_sigma(logsnr)) / np.array(
            process.VP.alpha_sigma(logsnr)
        )
        np.testing.assert_allclose(scale, row["c"], rtol=2e-6)


@both_families
def test_moments_are_accurate_in_float32(family):
    logsnr_t, logsnr_s = PAIRS.T
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (
        exact(family, logsnr_t),
        exact(family, logsnr_s),
    )
    share = -np.expm1(logsnr_t.astype(np.float64) - logsnr_s.astype(np.float64))
    at = jnp.asarray(logsnr_t), jnp.asarray(logsnr_s)

    forward = process.transition(family, *at)
    np.testing.assert_allclose(forward.scale, alpha_t / alpha_s, rtol=2e-6)
    np.testing.assert_allclose(forward.variance, share * sigma_t**2, rtol=2e-6)

    back = process.posterior(family, *at)
    z_scale = alpha_t * sigma_s**2 / (alpha_s * sigma_t**2)
    np.testing.assert_allclose(back.z_scale, z_scale, rtol=2e-6)
    np.testing.assert_allclose(back.x_scale, share * alpha_s, rtol=2e-6)
    np.testing.assert_allclose(back.variance, share * sigma_s**2, rtol=2e-6)


@both_families
def test_transition_carries_the_marginal_from_s_to_t(family):
    # By the definition (3), which is what the stable form must amount to.
    logsnr_t, logsnr_s = PAIRS.T
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (
        exact(family, logsnr_t),
        exact(family, logsnr_s),
    )
    q = process.transition(family, jnp.asarray(logsnr_t), jnp.asarray(logsnr_s))
    np.testing.assert_allclose(q.scale * alpha_s, alpha_t, rtol=2e-6)
    variance = np.asarray(q.scale, np.float64) ** 2 * sigma_s**2 + q.variance
    np.testing.assert_allclose(variance, sigma_t**2, rtol=2e-6)


@both_families
def test_posterior_carries_the_marginal_from_t_to_s(family):
    logsnr_t, logsnr_s = PAIRS.T
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (
        exact(family, logsnr_t),
        exact(family, logsnr_s),
    )
    q = process.posterior(family, jnp.asarray(logsnr_t), jnp.asarray(logsnr_s))
    z_scale = np.asarray(q.z_scale, np.float64)
    np.testing.assert_allclose(z_scale * alpha_t + q.x_scale, alpha_s, rtol=2e-6)
    variance = z_scale**2 * sigma_t**2 + q.variance
    np.testing.assert_allclose(variance, sigma_s**2, rtol=2e-6)


@both_families
def test_posterior_is_gaussian_conditioning(family):
    # z_s given z_t from their joint covariance, a textbook formula without precisions.
    for logsnr_t, logsnr_s in [(-3.0, -2.0), (0.0, 4.0), (2.0, 2.5)]:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (
            exact(family, logsnr_t),
            exact(family, logsnr_s),
        )
        covariance = alpha_t / alpha_s * sigma_s**2
        gain = covariance / sigma_t**2
        q = process.posterior(family, jnp.float32(logsnr_t), jnp.float32(logsnr_s))
        np.testing.assert_allclose(q.z_scale, gain, rtol=2e-6)
        np.testing.assert_allclose(q.x_scale, alpha_s - gain * alpha_t, rtol=2e-6)
        np.testing.assert_allclose(
            q.variance, sigma_s**2 - gain * covariance, rtol=2e-6
        )


@both_families
def test_two_steps_noisier_are_one(family):
    r, s, t = jnp.float32(3.0), jnp.float32(-1.0), jnp.float32(-4.0)
    first = process.transition(family, s, r)
    second = process.transition(family, t, s)
    both = process.transition(family, t, r)
    np.testing.assert_allclose(second.scale * first.scale, both.scale, rtol=1e-6)
    variance = second.scale**2 * first.variance + second.variance
    np.testing.assert_allclose(variance, both.variance, rtol=1e-6)


@both_families
def test_added_noise_has_the_moments_of_the_marginal(family):
    logsnr = jnp.array([-4.0, 0.0, 4.0])
    eps = jax.random.normal(jax.random.key(0), (3, 100, 100, 1))
    z = process.add_noise(family, jnp.full_like(eps, 0.7), eps, logsnr)
    alpha, sigma = exact(family, logsnr)
    # Five standard errors of 10^4 numbers.
    mean, std = np.mean(z, (1, 2, 3)), np.std(z, (1, 2, 3))
    np.testing.assert_allclose(mean, 0.7 * alpha, atol=0.05)
    np.testing.assert_allclose(std, sigma, rtol=0.05)


def test_amplitudes_are_differentiable_far_out():
    for family in (process.VP, process.FLOW):
        slope = jax.jacobian(family.alpha_sigma)(jnp.float32(20.0))
        assert np.all(np.isfinite(slope))
