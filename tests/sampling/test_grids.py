import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.diffusion import discrete, schedules
from simple_diffusion.sampling import grids
from tests.vectors import vector

COSINE = schedules.cosine()
SCHEDULES = [COSINE, schedules.shift_schedule(COSINE, 64, 256), schedules.flow()]
TABLE = discrete.from_betas(0.00085, 0.012)
GRIDS = {
    "uniform t": lambda n: grids.uniform_t(COSINE, n),
    "uniform logsnr": lambda n: grids.uniform_logsnr(COSINE, n),
    "karras": grids.karras,
}
GRIDS |= {
    spacing: lambda n, s=spacing: grids.discrete(TABLE, n, s)
    for spacing in ("leading", "trailing", "linspace")
}
every_grid = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())


@every_grid
@pytest.mark.parametrize("n", [1, 2, 7, 256, 1000])
def test_a_grid_of_n_has_n_values_that_rise_from_noise_to_image(grid, n):
    logsnr = grid(n)
    assert logsnr.shape == (n,) and logsnr.dtype == np.float32
    assert isinstance(logsnr, np.ndarray)  # known before anything is compiled
    assert np.all(np.diff(logsnr) > 0)
    if grid is not GRIDS["leading"]:  # which stops before the last step
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


def test_leading_steps_are_those_of_latent_diffusion():
    for name, row in vector("latent.ddim_timesteps").items():
        if not name.startswith("S"):
            continue
        steps = grids.timesteps(1000, int(name[1:]), "leading").tolist()
        assert len(steps) == row["count"]
        assert steps[: len(row["first"])] == row["first"]
        assert steps[-len(row["last"]) :] == row["last"]


# Of the schedulers of diffusers 0.42 with steps_offset=1 for "leading".
@pytest.mark.parametrize(
    ("spacing", "n", "steps"),
    [
        ("leading", 1, [1]),
        ("leading", 10, [901, 801, 701, 601, 501, 401, 301, 201, 101, 1]),
        ("trailing", 1, [999]),
        ("trailing", 10, [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]),
        ("linspace", 1, [999]),  # theirs has 0, an image without noise
        ("linspace", 10, [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]),
        # Where the steps do not divide the table.
        (
            "trailing",
            30,
            [
                999,
                966,
                932,
                899,
                866,
                832,
                799,
                766,
                732,
                699,
                666,
                632,
                599,
                566,
                532,
                499,
                466,
                432,
                399,
                366,
                332,
                299,
                266,
                232,
                199,
                166,
                132,
                99,
                66,
                32,
            ],
        ),
        (
            "linspace",
            30,
            [
                999,
                965,
                930,
                896,
                861,
                827,
                792,
                758,
                723,
                689,
                655,
                620,
                586,
                551,
                517,
                482,
                448,
                413,
                379,
                344,
                310,
                276,
                241,
                207,
                172,
                138,
                103,
                69,
                34,
                0,
            ],
        ),
    ],
)
def test_steps_of_each_spacing(spacing, n, steps):
    assert grids.timesteps(1000, n, spacing).tolist() == steps


def test_the_levels_of_stable_diffusion_are_its_sigmas():
    row = vector("latent.sd_sigma_range")
    (noisy, clean) = grids.discrete(TABLE, 2, "linspace")
    np.testing.assert_allclose(np.exp(-noisy / 2), row["at_999"], rtol=1e-6)
    np.testing.assert_allclose(np.exp(-clean / 2), row["at_0"], rtol=1e-6)


def test_more_steps_than_the_schedule_has_are_an_error():
    with pytest.raises(ValueError, match="1001 steps of a discrete schedule .* 1000"):
        grids.timesteps(1000, 1001, "leading")
