import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.diffusion import schedules
from simple_diffusion.sampling import grids
from tests.vectors import vector

COSINE = schedules.cosine()
SCHEDULES = [COSINE, schedules.shift_schedule(COSINE, 64, 256), schedules.flow()]
GRIDS = {
    "uniform t": lambda n: grids.uniform_t(COSINE, n),
    "uniform logsnr": lambda n: grids.uniform_logsnr(COSINE, n),
    "karras": grids.karras,
}
every_grid = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())


@every_grid
@pytest.mark.parametrize("n", [1, 2, 7, 256, 1000])
def test_a_grid_of_n_has_n_values_that_rise_from_noise_to_image(grid, n):
    logsnr = grid(n)
    assert logsnr.shape == (n,) and logsnr.dtype == np.float32
    assert isinstance(logsnr, np.ndarray)  # known before anything is compiled
    assert np.all(np.diff(logsnr) > 0)
    np.testing.assert_array_equal(logsnr[0], grid(5)[0])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_uniform_t_visits_equal_times_from_1_and_stops_before_0(schedule):
    t = schedule.inverse(jnp.asarray(grids.uniform_t(schedule, 8)))
    np.testing.assert_allclose(t, np.arange(8, 0, -1) / 8, rtol=0, atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_uniform_logsnr_takes_equal_steps_towards_the_clean_end(schedule):
    noisy, clean = np.asarray(schedule(jnp.array([1.0, 0.0])))
    logsnr = grids.uniform_logsnr(schedule, 10)
    np.testing.assert_allclose(logsnr[0], noisy, rtol=1e-6)
    np.testing.assert_allclose(np.diff(logsnr), (clean - noisy) / 10, rtol=1e-5)


def test_karras_takes_equal_steps_in_a_root_of_sigma():
    sigma = np.exp(-0.5 * grids.karras(20, rho=3.0).astype(np.float64))
    np.testing.assert_allclose(sigma[[0, -1]], [80.0, 0.002], rtol=1e-5)
    step = (0.002 ** (1 / 3) - 80 ** (1 / 3)) / 19
    np.testing.assert_allclose(np.diff(sigma ** (1 / 3)), step, rtol=1e-4)


def test_logsnr_of_sigma_matches_the_table():
    for row in vector("schedule.edm_sigma"):
        got = grids.logsnr_from_sigma(row["sigma"])
        np.testing.assert_allclose(got, row["logsnr"], rtol=1e-10)


@every_grid
def test_a_grid_without_steps_is_an_error(grid):
    with pytest.raises(ValueError, match="0 steps must have at least 1"):
        grid(0)
