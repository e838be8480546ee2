import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.core import rng
from simple_diffusion.diffusion import schedules
from simple_diffusion.diffusion.process import FLOW, VP
from simple_diffusion.sampling import grids, loop, solvers
from tests.gaussian import Gaussian

SHAPE = (6, 4, 2)
GRID = grids.uniform_t(schedules.cosine(), 8)
KEYS = rng.derive_example_keys(jax.random.key(0), jnp.arange(16))
SOLVERS = {
    "ancestral": solvers.ancestral(),
    "heun": solvers.heun(),
    "dpmpp_2m": solvers.dpmpp_2m(),
}
every_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())


def denoise(z_t, logsnr):
    """Mixes neighbouring pixels, so that an image is more than its pixels."""
    exact = Gaussian().denoiser()(z_t, logsnr)
    return 0.7 * exact + 0.3 * jnp.tanh(jnp.roll(exact, 1, axis=1))


def draw(solver, keys, grid=GRID):
    return loop.sample(denoise, solver, grid, keys, SHAPE)


DRAW = {name: jax.jit(functools.partial(draw, s)) for name, s in SOLVERS.items()}
every_draw = pytest.mark.parametrize("draw", DRAW.values(), ids=DRAW.keys())


@every_draw
def test_an_image_does_not_depend_on_its_batch(draw):
    together = draw(KEYS)
    np.testing.assert_allclose(together[5:6], draw(KEYS[5:6]), rtol=0, atol=1e-6)
    np.testing.assert_allclose(together[::-1], draw(KEYS[::-1]), rtol=0, atol=1e-6)


@every_draw
def test_an_image_does_not_depend_on_the_number_of_devices(draw):
    mesh = jax.make_mesh((8,), ("data",))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    eight = draw(jax.device_put(KEYS, spread))
    assert len(eight.sharding.device_set) == 8
    np.testing.assert_allclose(draw(KEYS), eight, rtol=0, atol=1e-6)


@every_draw
def test_the_same_key_draws_the_same_image_and_another_key_another(draw):
    first = np.asarray(draw(KEYS))
    np.testing.assert_array_equal(first, draw(KEYS))
    for k in range(1, 16):
        assert np.max(np.abs(first[k] - first[0])) > 0.1


@every_solver
@pytest.mark.parametrize("family", [VP, FLOW], ids=["vp", "flow"])
def test_one_step_returns_the_estimate_from_pure_noise(solver, family):
    calls = []

    def watched(z_t, logsnr):
        calls.append((z_t, logsnr))
        return 2.0 * z_t

    grid = np.array([1.0], np.float32)  # where sigma is far from 1
    x = loop.sample(watched, solver, grid, KEYS, SHAPE, family)
    # The scan has no steps, but is still traced; the last call is the one that counts.
    z, logsnr = calls[-1]
    np.testing.assert_array_equal(x, 2.0 * z)
    z = np.asarray(z)
    np.testing.assert_array_equal(logsnr, 1.0)
    _, sigma = family.alpha_sigma(jnp.float32(1.0))
    assert np.std(z) == pytest.approx(float(sigma), rel=0.1)
    assert np.mean(z) == pytest.approx(0.0, abs=0.1)


def test_a_first_order_solver_calls_the_network_once_at_each_value_of_the_grid():
    seen = []

    def watched(z_t, logsnr):
        jax.debug.callback(lambda v: seen.append(float(v)), logsnr[0])
        return z_t

    jax.block_until_ready(loop.sample(watched, solvers.ddim(), GRID, KEYS[:2], SHAPE))
    jax.effects_barrier()
    np.testing.assert_allclose(sorted(seen), GRID, rtol=1e-6)


def test_the_program_does_not_grow_with_the_number_of_steps():
    def size(n):
        grid = grids.uniform_t(schedules.cosine(), n)
        return len(
            str(jax.make_jaxpr(lambda g, k: draw(solvers.heun(), k, g))(grid, KEYS))
        )

    # Numbers of steps are written with as many digits.
    assert size(900) < size(10) + 200


def test_noise_of_a_step_is_not_that_of_another():
    # x_hat = 0 and steps so long that z is nearly all new noise.
    grid = np.array([-12.0, -6.0, 0.0, 6.0], np.float32)
    states = []

    def zeros(z_t, logsnr):
        jax.debug.callback(lambda z: states.append(np.asarray(z).ravel()), z_t)
        return jnp.zeros_like(z_t)

    loop.sample(zeros, solvers.ancestral(), grid, KEYS, (16, 16, 1))
    jax.effects_barrier()
    assert len(states) == 4
    correlation = np.corrcoef(states) - np.eye(4)
    # 4096 numbers, and at most exp(-3) of the old noise.
    assert np.max(np.abs(correlation)) < 0.12


def test_integrating_over_nothing_returns_z():
    z = jax.random.normal(jax.random.key(1), (2, *SHAPE))
    got = loop.integrate(denoise, solvers.dpmpp_2m(), z, GRID[:1], KEYS[:2])
    np.testing.assert_array_equal(got, z)


def test_a_path_may_be_walked_in_two_parts():
    # By a solver that remembers nothing between steps.
    z = jax.random.normal(jax.random.key(2), (2, *SHAPE))
    whole = loop.integrate(denoise, solvers.heun(), z, GRID, KEYS[:2])
    half = loop.integrate(denoise, solvers.heun(), z, GRID[:4], KEYS[:2])
    parts = loop.integrate(denoise, solvers.heun(), half, GRID[3:], KEYS[:2])
    np.testing.assert_allclose(whole, parts, rtol=0, atol=1e-5)


def test_an_image_refined_from_a_clean_level_is_that_image():
    x = jax.random.normal(jax.random.key(1), (2, *SHAPE))
    got = loop.refine(lambda z, _: z, solvers.ddim(), np.array([25.0]), KEYS[:2], x)
    np.testing.assert_allclose(got, x, atol=1e-4)


@every_solver
def test_an_image_refined_from_pure_noise_is_a_sample(solver):
    grid = np.linspace(-40.0, 6.0, 6, dtype=np.float32)
    x = jax.random.normal(jax.random.key(1), (2, *SHAPE))
    got = loop.refine(denoise, solver, grid, KEYS[:2], x)
    want = loop.sample(denoise, solver, grid, KEYS[:2], SHAPE)
    np.testing.assert_allclose(got, want, atol=1e-4)
