import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simple_diffusion.diffusion import parameterization, process
from simple_diffusion.diffusion.process import FLOW, VP
from tests.vectors import vector

both_families = pytest.mark.parametrize("family", [VP, FLOW], ids=["vp", "flow"])
every_kind = pytest.mark.parametrize("kind", parameterization.KINDS)
LOGSNR = st.floats(-20.0, 20.0, width=32)
PIXEL = st.floats(-2.0, 2.0, width=32)
ROUNDING = 1.2e-7  # of a float32


def image(value):
    return jnp.full((1, 1, 1, 1), value, jnp.float32)


def magnification(kind, logsnr, family):
    """How much larger than itself the rounding of z and of a prediction can become.

    det / sigma turns an error of x_hat into one of the prediction, sigma / det back;
    1 / det and 1 / sigma are what the formulas divide by.
    """
    alpha, sigma = (float(v) for v in family.alpha_sigma(jnp.float32(logsnr)))
    det = {"eps": alpha, "x": sigma, "v": alpha**2 + sigma**2, "u": alpha + sigma}
    return max(1, 1 / sigma, 1 / det[kind]) if kind != "x" else 1.0


def test_conversions_match_the_table():
    row = vector("param.conversion")
    logsnr = jnp.float32([row["logsnr"]])
    for kind in ("x", "eps", "v"):
        args = image(row["z"]), logsnr
        got = parameterization.from_x(kind, image(row["x"]), *args)
        np.testing.assert_allclose(got, row[kind], rtol=0, atol=1e-6)
        got = parameterization.to_x(kind, image(row[kind]), *args)
        np.testing.assert_allclose(got, row["x"], rtol=0, atol=1e-6)
    args = image(row["z_rf"]), logsnr, FLOW
    got = parameterization.to_x("u", image(row["u"]), *args)
    np.testing.assert_allclose(got, row["x"], rtol=0, atol=1e-6)
    got = parameterization.from_x("u", image(row["x"]), *args)
    np.testing.assert_allclose(got, row["u"], rtol=0, atol=1e-6)


@both_families
@pytest.mark.parametrize("second", parameterization.KINDS)
@every_kind
def test_every_pair_of_kinds_round_trips(kind, second, family):
    @settings(max_examples=30, deadline=None)
    @given(LOGSNR, PIXEL, PIXEL)
    def check(logsnr, x, eps):
        at = jnp.float32([logsnr])
        z = process.add_noise(family, image(x), image(eps), at)
        there = parameterization.target(kind, image(x), image(eps), at, family)
        x_hat = parameterization.to_x(kind, there, z, at, family)
        between = parameterization.from_x(second, x_hat, z, at, family)
        x_again = parameterization.to_x(second, between, z, at, family)
        back = parameterization.from_x(kind, x_again, z, at, family)
        worst = magnification(kind, logsnr, family)
        worst *= magnification(second, logsnr, family)
        np.testing.assert_allclose(back, there, rtol=0, atol=100 * ROUNDING * worst)

    check()


@both_families
@pytest.mark.parametrize(
    "kind, lowest", [("x", -20), ("v", -20), ("u", -20), ("eps", 0)]
)
def test_x_hat_is_exact_wherever_the_kind_determines_it(kind, lowest, family):
    # Only eps does not: at low logsnr the image is what is left of z after the noise.
    logsnr = jnp.linspace(lowest, 20.0, 201)
    x, eps = jax.random.normal(jax.random.key(0), (2, 201, 3, 3, 1))
    z = process.add_noise(family, x, eps, logsnr)
    prediction = parameterization.target(kind, x, eps, logsnr, family)
    x_hat = parameterization.to_x(kind, prediction, z, logsnr, family)
    np.testing.assert_allclose(x_hat, x, rtol=0, atol=3e-6)


@every_kind
def test_target_is_the_prediction_of_a_perfect_network(kind):
    logsnr = jnp.linspace(-5.0, 5.0, 11)
    x, eps = jax.random.normal(jax.random.key(1), (2, 11, 3, 3, 1))
    for family in (VP, FLOW):
        z = process.add_noise(family, x, eps, logsnr)
        np.testing.assert_allclose(
            parameterization.target(kind, x, eps, logsnr, family),
            parameterization.from_x(kind, x, z, logsnr, family),
            rtol=0,
            atol=1e-4,  # from_x divides by sigma = 0.08
        )


def test_error_ratios_match_the_table():
    for row in vector("param.error_ratios"):
        logsnr = jnp.float32(row["logsnr"])
        to_x = parameterization.log_error_factor("x", logsnr)  # log E_eps / E_x
        for kind in ("eps", "v", "u"):
            factor = to_x - parameterization.log_error_factor(kind, logsnr)
            np.testing.assert_allclose(np.exp(factor), row[kind], rtol=5e-6)


@both_families
@every_kind
def test_error_factor_is_the_ratio_of_squared_errors(kind, family):
    logsnr = jnp.linspace(-8.0, 8.0, 17)
    x, eps, error = jax.random.normal(jax.random.key(2), (3, 17, 4, 4, 1))
    z = process.add_noise(family, x, eps, logsnr)

    def squared_error(k):
        truth = parameterization.from_x(k, x, z, logsnr, family)
        guess = parameterization.from_x(k, x + error, z, logsnr, family)
        return np.mean(np.square(guess - truth), axis=(1, 2, 3))

    factor = np.exp(parameterization.log_error_factor(kind, logsnr, family))
    np.testing.assert_allclose(
        squared_error("eps"), factor * squared_error(kind), rtol=1e-3
    )


def test_error_factors_of_vp_are_the_well_known_ones():
    logsnr = jnp.linspace(-20.0, 20.0, 401)
    snr = np.exp(np.asarray(logsnr, np.float64))
    for kind, wanted in {
        "eps": np.ones_like(snr),
        "x": snr,
        "v": snr / (1 + snr),
        "u": snr / (1 + np.sqrt(snr)) ** 2,
    }.items():
        factor = parameterization.log_error_factor(kind, logsnr)
        np.testing.assert_allclose(factor, np.log(wanted), rtol=0, atol=5e-6)


def test_an_unknown_kind_is_an_error_that_lists_the_known():
    v, logsnr = image(0.0), jnp.zeros(1)
    with pytest.raises(ValueError, match="'score'.*eps.*x.*v.*u"):
        parameterization.to_x("score", v, v, logsnr)
