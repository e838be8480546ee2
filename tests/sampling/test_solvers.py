import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.core import rng
from simple_diffusion.diffusion import process, schedules
from simple_diffusion.diffusion.process import FLOW, VP
from simple_diffusion.sampling import grids, loop, solvers
from tests.gaussian import Gaussian
from tests.vectors import vector

both_families = pytest.mark.parametrize("family", [VP, FLOW], ids=["vp", "flow"])
SOLVERS = {
    "ancestral": solvers.ancestral,
    "ancestral, gamma 0": lambda family: solvers.ancestral(family, 0.0),
    "ancestral, gamma 1": lambda family: solvers.ancestral(family, 1.0),
    "ddim": solvers.ddim,
    "ddim, eta 0.5": lambda family: solvers.ddim(family, 0.5),
    "ddim, eta 1": lambda family: solvers.ddim(family, 1.0),
    "heun": solvers.heun,
    "dpmpp_2m": solvers.dpmpp_2m,
}
every_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
COSINE = schedules.cosine()
DATA = Gaussian()


def keys(n, seed=0):
    return rng.derive_example_keys(jax.random.key(seed), jnp.arange(n))


def constant(value):
    return lambda z_t, logsnr: jnp.full_like(z_t, value)


def one_step(solver, denoise, z, logsnr_t, logsnr_s, step_keys):
    z_s, _ = solver.step(
        denoise,
        z,
        solver.init(z),
        jnp.float32(logsnr_t),
        jnp.float32(logsnr_s),
        step_keys,
    )
    return z_s


def walk(solver, denoise, z, grid):
    """The loop of loop.py, one call after the other."""
    state = solver.init(z)
    for k in range(len(grid) - 1):
        step_keys = keys(z.shape[0], seed=k)
        logsnr_t, logsnr_s = jnp.float32(grid[k]), jnp.float32(grid[k + 1])
        z, state = solver.step(denoise, z, state, logsnr_t, logsnr_s, step_keys)
    return z


@pytest.mark.parametrize(
    "make, order",
    [(solvers.ddim, 1), (solvers.heun, 2), (solvers.dpmpp_2m, 2)],
    ids=["ddim", "heun", "dpmpp_2m"],
)
@both_families
def test_error_falls_with_the_order_of_the_solver(make, order, family):
    # From logsnr -6 to 6: beyond, Gaussian data are noise, or the image, and no step
    # makes an error.
    schedule = schedules.cosine(-6.0, 6.0)
    z = jax.random.normal(jax.random.key(0), (2, 4, 4, 1))
    wanted = DATA.flow(family, z, -6.0, 6.0)
    steps = np.array([16, 32, 64])

    def error(n):
        grid = schedule(jnp.linspace(1.0, 0.0, n + 1))
        got = loop.integrate(DATA.denoiser(family), make(family), z, grid, keys(2))
        return np.max(np.abs(got - wanted))

    errors = np.array([error(n) for n in steps])
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    # Not yet in the limit, and float32 leaves 1e-6 in the smallest errors.
    assert slope == pytest.approx(order, abs=0.25), errors


@every_solver
def test_samples_have_the_mean_and_variance_of_the_data(solver):
    grid = grids.uniform_logsnr(schedules.cosine(-10.0, 10.0), 400)

    @jax.jit
    def draw(keys):
        return loop.sample(DATA.denoiser(), solver(VP), grid, keys, (16, 16, 1))

    x = np.asarray(draw(keys(64)))
    # 16384 pixels: standard errors of 0.004 and 0.003. The steps of 0.05 in logsnr put
    # the std of a first-order solver off by up to 2 %.
    assert np.mean(x) == pytest.approx(DATA.mean, abs=0.015)
    assert np.std(x) == pytest.approx(DATA.std, rel=0.035)


def test_ancestral_step_matches_the_table():
    schedule = schedules.shift_schedule(COSINE, 64, 256)
    z = jnp.ones((2, 3, 3, 1))
    noise = rng.normal_per_example(keys(2), z.shape[1:])
    for row in vector("sampler.ancestral_step"):
        logsnr_t, logsnr_s = schedule(jnp.array([row["t"], row["s"]], jnp.float32))
        for gamma, name in [
            (0.0, "std_gamma_0"),
            (0.2, "std_gamma_0p2"),
            (1.0, "std_gamma_1"),
        ]:
            solver = solvers.ancestral(VP, gamma)
            denoise = constant(row["x_hat"])
            got = one_step(solver, denoise, z, logsnr_t, logsnr_s, keys(2))
            wanted = row["mean"] + row[name] * noise
            np.testing.assert_allclose(got, wanted, rtol=0, atol=3e-6)


def test_ddim_step_matches_the_table():
    schedule = schedules.shift_schedule(COSINE, 64, 256)
    z = jnp.ones((2, 3, 3, 1))
    noise = rng.normal_per_example(keys(2), z.shape[1:])
    for row in vector("sampler.ddim_step"):
        logsnr_t, logsnr_s = schedule(jnp.array([row["t"], row["s"]], jnp.float32))
        for eta in (0.0, 0.5, 1.0):
            moments = row[f"eta_{eta:g}"]
            solver = solvers.ddim(VP, eta)
            denoise = constant(row["x_hat"])
            got = one_step(solver, denoise, z, logsnr_t, logsnr_s, keys(2))
            wanted = moments["mean"] + moments["std"] * noise
            np.testing.assert_allclose(got, wanted, rtol=0, atol=3e-6)


@both_families
@pytest.mark.parametrize(
    "logsnr_t, logsnr_s", [(-15.0, -3.0), (-1.0, 0.5), (3.0, 3.01), (6.0, 15.0)]
)
def test_ddim_with_all_noise_renewed_is_the_ancestral_posterior(
    family, logsnr_t, logsnr_s
):
    z = jax.random.normal(jax.random.key(1), (3, 4, 4, 2))
    args = DATA.denoiser(family), z, logsnr_t, logsnr_s, keys(3)
    np.testing.assert_allclose(
        one_step(solvers.ddim(family, 1.0), *args),
        one_step(solvers.ancestral(family, 0.0), *args),
        rtol=0,
        atol=1e-5,
    )


@every_solver
def test_a_path_does_not_depend_on_the_scale_of_z(solver):
    grid = grids.uniform_t(COSINE, 10)
    noise = jax.random.normal(jax.random.key(2), (2, 4, 4, 1))
    ends = {}
    for family in (VP, FLOW):
        scale_t, scale_s = (
            sum(family.alpha_sigma(jnp.float32(at))) for at in (grid[0], grid[-1])
        )
        z = walk(solver(family), DATA.denoiser(family), scale_t * noise, grid)
        ends[family] = z / scale_s
    np.testing.assert_allclose(ends[VP], ends[FLOW], rtol=0, atol=1e-4)


@every_solver
@both_families
def test_a_certain_denoiser_is_believed_at_the_clean_end(solver, family):
    # Whatever the path, z ends at x_hat, with no more noise than the last level but one
    # had.
    grid = np.linspace(-15.0, 15.0, 10)
    z = jax.random.normal(jax.random.key(2), (2, 4, 4, 1))
    got = walk(solver(family), constant(0.4), z, grid)
    np.testing.assert_allclose(got, 0.4, rtol=0, atol=5 * np.exp(-0.5 * grid[-2]))


@both_families
def test_a_first_step_towards_a_fixed_image_is_that_of_ddim(family):
    z = jax.random.normal(jax.random.key(3), (2, 4, 4, 1))
    args = constant(0.4), z, -2.0, 1.0, keys(2)
    wanted = one_step(solvers.ddim(family), *args)
    for make in (solvers.heun, solvers.dpmpp_2m):
        # For an x_hat that does not change all of them are exact.
        got = one_step(make(family), *args)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6)


def test_heun_agrees_with_its_form_in_edm_within_its_order():
    # EDM, algorithm 1, without churn: z / alpha as a function of sigma / alpha.
    schedule = schedules.cosine(-4.0, 4.0)
    z = jax.random.normal(jax.random.key(4), (2, 3, 3, 1))

    def edm(n):
        s = np.exp(-0.5 * np.asarray(schedule(jnp.linspace(1.0, 0.0, n + 1)), float))
        y = np.asarray(z, float) * np.sqrt(1 + s[0] ** 2)

        def slope(y, s):
            x_hat = DATA.mean + DATA.std**2 / (DATA.std**2 + s**2) * (y - DATA.mean)
            return (y - x_hat) / s

        for k in range(n):
            d = slope(y, s[k])
            ahead = slope(y + (s[k + 1] - s[k]) * d, s[k + 1])
            y = y + (s[k + 1] - s[k]) * 0.5 * (d + ahead)
        return y / np.sqrt(1 + s[-1] ** 2)

    def ours(n):
        grid = schedule(jnp.linspace(1.0, 0.0, n + 1))
        return loop.integrate(DATA.denoiser(), solvers.heun(), z, grid, keys(2))

    coarse, fine = (np.max(np.abs(ours(n) - edm(n))) for n in (16, 32))
    assert fine < 5e-3 and 3.0 < coarse / fine < 6.0


@pytest.mark.parametrize("make", [solvers.ddim, solvers.heun, solvers.dpmpp_2m])
def test_deterministic_solvers_ignore_the_keys(make):
    grid = grids.uniform_t(COSINE, 5)
    z = jax.random.normal(jax.random.key(5), (2, 4, 4, 1))
    x = [
        loop.integrate(DATA.denoiser(), make(), z, grid, keys(2, seed))
        for seed in (0, 1)
    ]
    np.testing.assert_array_equal(x[0], x[1])


@every_solver
@both_families
def test_steps_of_float32_stay_finite_over_the_whole_range(solver, family):
    z = jax.random.normal(jax.random.key(6), (2, 4, 4, 1))
    grid = [-20.0, -19.999, 0.0, 19.99, 20.0]
    got = walk(solver(family), DATA.denoiser(family), z, grid)
    assert np.all(np.isfinite(got)) and np.max(np.abs(got)) < 10


@both_families
@pytest.mark.parametrize("name", ["ancestral, gamma 0", "ddim, eta 0.5", "ddim"])
def test_a_step_that_knows_x_keeps_the_marginal(name, family):
    n, logsnr_t, logsnr_s = 64, -1.0, 1.5
    x = jnp.full((n, 16, 16, 1), 0.8)
    eps = jax.random.normal(jax.random.key(7), x.shape)
    z = process.add_noise(family, x, eps, jnp.full(n, logsnr_t))
    args = constant(0.8), z, logsnr_t, logsnr_s, keys(n)
    z_s = np.asarray(one_step(SOLVERS[name](family), *args))
    alpha, sigma = family.alpha_sigma(jnp.float32(logsnr_s))
    # 16384 pixels: a standard error of 0.8 % of sigma.
    assert np.mean(z_s) == pytest.approx(0.8 * float(alpha), abs=0.02)
    assert np.std(z_s) == pytest.approx(float(sigma), rel=0.03)
