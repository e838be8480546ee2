import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from simple_diffusion.core import arrays
from simple_diffusion.diffusion import (
    parameterization,
    process,
    schedules,
    time_distributions,
    weighting,
)
from tests.gaussian import Gaussian
from tests.vectors import vector

COSINE = schedules.cosine()
LOGSNR = jnp.linspace(-12.0, 12.0, 241)
DATA = Gaussian()


def factor(weight, schedule, distribution, kind, t):
    """What the squared error of `kind` is multiplied by when training draws this t."""
    logsnr = schedule(t)
    return jnp.exp(
        weight(logsnr)
        - schedule.log_density(logsnr)
        - distribution.log_density(t)
        + parameterization.log_error_factor(kind, logsnr)
    )


def weight_on(kind, weight, logsnr):
    """The weight on the error of `kind` that `weight` amounts to at each logsnr."""
    return np.exp(weight(logsnr) + parameterization.log_error_factor(kind, logsnr))


def published(weight, schedule, kind):
    """The weight on the error of `kind` under uniform t: the density divided out."""
    return np.exp(
        weight(LOGSNR)
        - schedule.log_density(LOGSNR)
        + parameterization.log_error_factor(kind, LOGSNR)
    )


@pytest.mark.parametrize("name", ["cosine", "shifted", "interpolated", "flow"])
def test_mean_over_t_needs_no_factor_with_its_own_schedule(name):
    shifted = schedules.shift_schedule(COSINE, 64, 256)
    schedule = {
        "cosine": COSINE,
        "shifted": shifted,
        "interpolated": schedules.interpolate_schedules(COSINE, shifted),
        "flow": schedules.flow(),
    }[name]
    t = jnp.linspace(0.0, 1.0, 101)
    uniform = time_distributions.uniform()
    weight = weighting.eps_mse(schedule)
    np.testing.assert_array_equal(factor(weight, schedule, uniform, "eps", t), 1.0)
    alpha, _ = process.VP.alpha_sigma(schedule(t))
    np.testing.assert_allclose(
        factor(weight, schedule, uniform, "v", t), alpha**2, rtol=1e-5
    )


@pytest.mark.parametrize("kind", parameterization.KINDS)
def test_plain_mean_of_any_kind_is_plain_in_its_own_space(kind):
    weight = weighting.mse(kind, COSINE)
    np.testing.assert_allclose(published(weight, COSINE, kind), 1.0, rtol=1e-5)


def test_names_of_plain_means_say_what_is_averaged():
    for kind in parameterization.KINDS:
        named = getattr(weighting, f"{kind}_mse")(COSINE)
        np.testing.assert_array_equal(
            named(LOGSNR), weighting.mse(kind, COSINE)(LOGSNR)
        )


def test_sigmoid_matches_the_table():
    for row in vector("loss.sigmoid_weights"):
        weight = weighting.sigmoid(float(row["bias"]))
        logsnr = jnp.float32([row["logsnr"]])
        for kind in ("x", "eps", "v"):
            got = weight_on(kind, weight, logsnr)
            np.testing.assert_allclose(got, row[f"w_{kind}"], rtol=2e-6)


def test_sigmoid_with_the_rate_matches_the_table_even_at_the_ends():
    for row in vector("loss.sigmoid_times_rate_v"):
        weight = weighting.sigmoid(float(row["bias"]))
        schedule = schedules.shift_schedule(COSINE, row["noise_d"], row["image_d"])
        t = jnp.float32([row["t"]])
        got = factor(weight, schedule, time_distributions.uniform(), "v", t)
        np.testing.assert_allclose(got, row["weight"], rtol=1e-5)


def test_min_snr_matches_the_table():
    weight = weighting.min_snr(COSINE)
    for row in vector("loss.min_snr"):
        logsnr = jnp.float32([row["logsnr"]])
        for kind in ("x", "eps", "v"):
            got = weight_on(kind, weight, logsnr) / np.exp(COSINE.log_density(logsnr))
            np.testing.assert_allclose(got, row[kind], rtol=5e-6)


def test_flow_matching_is_an_exponential_in_logsnr():
    # Wide bounds, where t is the amplitude of the noise.
    weight = weighting.u_mse(schedules.flow(-40.0, 40.0))
    for row in vector("loss.flow_matching_implied_weight"):
        got = np.exp(weight(jnp.float32([row["logsnr"]])))
        np.testing.assert_allclose(got, row["w_eps"], rtol=1e-5)


def test_snr_trunc_is_the_larger_of_two_losses():
    snr = np.exp(LOGSNR)
    got = published(weighting.snr_trunc(COSINE), COSINE, "x")
    np.testing.assert_allclose(got, np.maximum(1.0, snr), rtol=1e-5)


def test_a_floor_bounds_the_weight_of_min_snr_from_below():
    logsnr = jnp.linspace(-12.0, 12.0, 97)
    weight = weighting.min_snr(COSINE, 5.0, floor=0.5)
    # On the error of x: the weight on that of eps, times the SNR, without the density.
    got = jnp.exp(weight(logsnr) - COSINE.log_density(logsnr) + logsnr)
    np.testing.assert_allclose(got, np.clip(np.exp(logsnr), 0.5, 5.0), rtol=1e-4)
    plain = weighting.min_snr(COSINE, 5.0)
    np.testing.assert_array_equal(
        weighting.min_snr(COSINE, 5.0, floor=0.0)(logsnr), plain(logsnr)
    )


def test_soft_min_snr_is_half_the_harmonic_mean_of_its_two_limits():
    snr = np.exp(np.asarray(LOGSNR, np.float64))
    got = published(weighting.soft_min_snr(COSINE, 5.0), COSINE, "x")
    np.testing.assert_allclose(got, 5 * snr / (5 + snr), rtol=1e-5)


def test_edm_is_its_published_loss_in_sigma():
    # Table 1 of the paper: (s^2 + sd^2) / (s sd)^2 on E_x for log s ~ N(-1.2, 1.2^2),
    # here integrated over log s for an error E_x(s) that is anything but flat.
    log_s = np.linspace(-8.0, 6.0, 20_001)
    s = np.exp(log_s)
    error_x = np.sin(log_s) ** 2
    normal = np.exp(-0.5 * ((log_s + 1.2) / 1.2) ** 2) / (1.2 * np.sqrt(2 * np.pi))
    published_weight = (s**2 + 0.25) / (0.5 * s) ** 2
    wanted = np.trapezoid(normal * published_weight * error_x, log_s)

    logsnr = -2 * log_s
    weight = np.exp(weighting.edm()(jnp.asarray(logsnr, jnp.float32)))
    got = -np.trapezoid(weight * error_x / s**2, logsnr)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.8, 0.8)], ids=["SD3", "JiT"])
@pytest.mark.parametrize("shift", [0.0, -1.4])
def test_with_logit_normal_times_the_errors_of_their_weighting_have_one_factor(
    mean, std, shift
):
    schedule = schedules.flow(shift=shift)
    matching = time_distributions.logit_normal(mean, std)
    weight = weighting.logit_normal(schedule, mean, std)
    t = jax.nn.sigmoid(mean + std * jnp.linspace(-4.0, 4.0, 41))
    got = factor(weight, schedule, matching, "u", t)
    # Rounding of t, of which the smallest is 0.02, at 4 standard deviations.
    np.testing.assert_allclose(got, 1.0, rtol=1e-3)
    # Without the density in the weight the distribution is divided out.
    plain = factor(weighting.u_mse(schedule), schedule, matching, "u", t)
    assert plain.max() > 100 * plain.min()


def test_the_logit_normal_weighting_is_a_normal_in_logsnr_as_published():
    # With unbounded flow logit(t) = -logsnr/2; E_u = (1 + 1/sqrt(SNR))^2 E_eps.
    logsnr = np.linspace(-10.0, 10.0, 101)
    weight = weighting.logit_normal(schedules.flow(-40.0, 40.0), 0.8, 0.6)
    got = np.exp(weight(jnp.asarray(logsnr, jnp.float32)))
    normal = scipy.stats.norm.pdf(logsnr, -1.6, 1.2)
    wanted = normal * (1 + np.exp(-logsnr / 2)) ** 2
    np.testing.assert_allclose(got, wanted, rtol=1e-3)


def test_the_logit_normal_weighting_is_a_number_at_the_ends_and_beyond():
    weight = weighting.logit_normal(schedules.flow())
    # exp(-100) and less: nothing.
    ends = np.exp(weight(jnp.float32([-20.0, -15.0, 15.0, 20.0])))
    np.testing.assert_allclose(ends, 0.0, atol=1e-20)


def test_unit_weighting_prefers_no_noise_level():
    np.testing.assert_array_equal(weighting.unit()(LOGSNR), 0.0)


TRAINING = {
    "cosine": (COSINE, time_distributions.stratified()),
    "shifted": (
        schedules.shift_schedule(COSINE, 64, 128),
        time_distributions.stratified(),
    ),
    "interpolated": (
        schedules.interpolate_schedules(
            COSINE, schedules.shift_schedule(COSINE, 32, 128)
        ),
        time_distributions.stratified(),
    ),
    "flow": (schedules.flow(), time_distributions.stratified()),
    "flow, independent times": (schedules.flow(), time_distributions.uniform()),
    "flow, logit-normal": (schedules.flow(), time_distributions.logit_normal(0.5, 1.5)),
}


@pytest.mark.parametrize("name", TRAINING)
def test_loss_does_not_depend_on_how_training_draws_noise_levels(name):
    # A denoiser that believes in the wrong variance, so that its error is nobody's
    # optimum; the loss is what the objective averages, with the error taken in v.
    schedule, distribution = TRAINING[name]
    wrong = Gaussian(mean=0.3, std=0.8).denoiser()
    weights = [weighting.sigmoid(-1.0), weighting.edm(), weighting.eps_mse(COSINE)]
    n = 40_000

    @jax.jit
    def losses(key):
        t_key, x_key, eps_key = jax.random.split(key, 3)
        t = distribution.sample(t_key, n)
        logsnr = schedule(t)
        x = DATA.mean + DATA.std * jax.random.normal(x_key, (n, 4))
        eps = jax.random.normal(eps_key, (n, 4))
        z = process.add_noise(process.VP, x, eps, logsnr)
        error = parameterization.from_x("v", wrong(z, logsnr), z, logsnr)
        error = error - parameterization.target("v", x, eps, logsnr)
        per_example = arrays.mean_per_example(jnp.square(error))
        return [
            jnp.mean(factor(w, schedule, distribution, "v", t) * per_example)
            for w in weights
        ]

    # The integral itself, in float64; what the wrong gain leaves of x and of eps.
    logsnr = np.linspace(-15.0, 15.0, 3001)
    snr = np.exp(logsnr)
    gain = 0.64 * snr / (0.64 * snr + 1)  # of x_hat in z / alpha
    error_eps = snr * ((1 - gain) ** 2 * DATA.std**2 + gain**2 / snr)
    wanted = []
    for weight in weights:
        w = np.exp(np.asarray(weight(jnp.asarray(logsnr, jnp.float32)), np.float64))
        wanted.append(np.trapezoid(w * error_eps, logsnr))
    # 4 x 40000 draws of a squared normal, unevenly weighted: a standard error of 1 %.
    np.testing.assert_allclose(losses(jax.random.key(0)), wanted, rtol=0.03)


@pytest.mark.parametrize("kind", parameterization.KINDS)
def test_error_of_the_optimum_has_its_closed_form_at_every_noise_level(kind):
    logsnr = jnp.linspace(-6.0, 6.0, 13)
    normal = jax.random.normal(jax.random.key(1), (2, 13, 20_000))
    x, eps = DATA.mean + DATA.std * normal[0], normal[1]
    z = process.add_noise(process.VP, x, eps, logsnr)
    x_hat = DATA.denoiser()(z, logsnr)
    error = parameterization.from_x(kind, x_hat, z, logsnr)
    error = error - parameterization.target(kind, x, eps, logsnr)

    snr = np.exp(np.asarray(logsnr, np.float64))
    ratio = {"x": 1, "eps": snr, "v": 1 + snr, "u": (1 + np.sqrt(snr)) ** 2}[kind]
    # 20000 squares of a normal: a standard error of 1 %.
    np.testing.assert_allclose(
        arrays.mean_per_example(jnp.square(error)), ratio * DATA.error(snr), rtol=0.05
    )


def test_sigmoid_bias_follows_the_table_and_goes_on_outside():
    for side, bias in {64: 2, 128: 0, 256: -1, 512: -3, 1024: -4}.items():
        assert weighting.sigmoid_bias(side) == pytest.approx(bias)
    assert weighting.sigmoid_bias(181) == pytest.approx(-0.5, abs=2e-3)  # 128 sqrt 2
    assert weighting.sigmoid_bias(32) == pytest.approx(2 + 2 * np.log(2))
    assert weighting.sigmoid_bias(2048) == pytest.approx(-4 - 2 * np.log(2))


@pytest.mark.parametrize("family", [process.VP, process.FLOW], ids=["vp", "flow"])
def test_the_velocity_is_that_of_the_family(family):
    alpha, sigma = (np.asarray(v, np.float64) for v in family.alpha_sigma(LOGSNR))
    # v = alpha eps - sigma x = (alpha + sigma^2 / alpha) eps - sigma / alpha z.
    factor = 2 * np.log((alpha**2 + sigma**2) / alpha)
    found = weighting.mse("v", COSINE, family)(LOGSNR)
    expected = COSINE.log_density(LOGSNR) + factor
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
