import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.diffusion import loss
from tests.vectors import vector


def checkerboard(side):
    row, column = np.indices((side, side))
    sign = (-1.0) ** (row + column)
    return jnp.asarray(sign[None, :, :, None], jnp.float32)


def test_mse_is_the_mean_over_pixels_and_channels_of_each_example():
    error = jax.random.normal(jax.random.key(0), (3, 4, 5, 2))
    wanted = np.mean(np.asarray(error, np.float64) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(loss.mse(error), wanted, rtol=1e-6)


def test_multiscale_matches_the_table():
    row = vector("loss.multiscale")
    paper = loss.multiscale_mse(normalise="paper")
    constant = jnp.ones((1, row["d"], row["d"], 1))
    np.testing.assert_allclose(paper(constant), row["constant_residual_1"], rtol=1e-6)
    got = paper(checkerboard(row["d"]))
    np.testing.assert_allclose(got, row["checkerboard_residual_1"], rtol=1e-6)
    for side, times in row["times_d_low_frequency_weight"].items():
        constant = jnp.ones((1, int(side), int(side), 1))
        np.testing.assert_allclose(loss.multiscale_mse()(constant), times, rtol=1e-6)


def test_a_constant_error_has_31_times_the_gradient_at_512():
    error = jnp.ones((1, 512, 512, 1))
    many = jax.grad(lambda v: loss.multiscale_mse()(v)[0])(error)
    one = jax.grad(lambda v: loss.mse(v)[0])(error)
    np.testing.assert_allclose(many / one, 31.0, rtol=1e-5)


def test_white_error_is_damped_by_the_area_of_the_pooled_pixel():
    # At factor f a mean square of 1 becomes 1 / f^2, times the weight f: 1 + 1/2 + 1/4.
    error = jax.random.normal(jax.random.key(1), (8, 128, 128, 1))
    got = jnp.mean(loss.multiscale_mse()(error))
    # The coarsest scale has 8192 numbers: 1.6 % of its share of 1/7.
    np.testing.assert_allclose(got, 1.75, rtol=0.01)


def test_an_image_smaller_than_two_smallest_scales_has_one_scale():
    error = jax.random.normal(jax.random.key(2), (2, 62, 62, 3))
    np.testing.assert_allclose(loss.multiscale_mse()(error), loss.mse(error), rtol=1e-6)


def test_scales_stop_where_a_side_would_no_longer_be_whole():
    constant = jnp.ones((1, 12, 20, 1))
    # 12 x 20, then 6 x 10, then 3 x 5; 2 would allow one more.
    np.testing.assert_allclose(loss.multiscale_mse(1)(constant), 1 + 2 + 4, rtol=1e-6)


def test_normalisations_differ_by_the_side_of_the_image():
    error = jax.random.normal(jax.random.key(3), (2, 64, 256, 3))
    mean = loss.multiscale_mse(16)(error)
    paper = loss.multiscale_mse(16, normalise="paper")(error)
    np.testing.assert_allclose(mean, 128.0 * paper, rtol=1e-6)


@pytest.mark.parametrize("function", [loss.mse, loss.multiscale_mse(4)])
def test_loss_of_an_example_does_not_see_the_others(function):
    error = jax.random.normal(jax.random.key(4), (5, 16, 16, 3))
    alone = jnp.concatenate([function(error[k : k + 1]) for k in range(5)])
    np.testing.assert_allclose(function(error), alone, rtol=1e-6)


@pytest.mark.parametrize("function", [loss.mse, loss.multiscale_mse(4)])
def test_loss_is_quadratic_and_float32(function):
    error = jax.random.normal(jax.random.key(5), (2, 16, 16, 3))
    np.testing.assert_allclose(function(3.0 * error), 9.0 * function(error), rtol=1e-5)
    assert function(error.astype(jnp.bfloat16)).dtype == jnp.float32


def test_an_unknown_normalisation_is_an_error():
    with pytest.raises(ValueError, match="normalise='sum' must be 'mean' or 'paper'"):
        loss.multiscale_mse(normalise="sum")
