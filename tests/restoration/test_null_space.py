import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.core import rng
from simple_diffusion.diffusion import process, schedules
from simple_diffusion.restoration import (
    ddnm,
    null_space,
    operators,
    sensing,
    separable,
    travel,
)
from simple_diffusion.sampling import grids, guidance, loop, solvers
from tests.gaussian import Gaussian

SIZE = (8, 8)


def half(size=SIZE):
    """A mask of which every second row is known."""
    known = np.zeros((1, *size, 1), np.float32)
    known[:, ::2] = 1
    return known


OPERATORS = {
    "inpaint": operators.inpaint(half()),
    "average": operators.average(SIZE, 2),
    "masked_average": operators.average(SIZE, 4, half()),
    "bicubic": separable.bicubic(SIZE, 2),
    "blur": separable.blur(SIZE, *(separable.uniform_kernel(3),) * 2),
    "hadamard": sensing.hadamard(SIZE, 0.3, 0),
    "blocks": sensing.blocks(SIZE, 0.3, 0, 4),
    "grey": operators.grey(operators.identity(SIZE)),
    "old_photo": operators.grey(operators.average(SIZE, 2, half())),
}


def drawn(solver, operator, y, family=process.VP, steps=20, count=6, model=None):
    model = Gaussian() if model is None else model
    grid = grids.uniform_t(schedules.cosine(), steps)
    keys = rng.derive_example_keys(rng.derive_key(0, 0, "restore"), jnp.arange(count))
    denoise = null_space.project_denoiser(model.denoiser(family), operator, y)
    return jax.jit(
        lambda y: loop.sample(denoise, solver, grid, keys, (*SIZE, 3), family)
    )(y)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("family", [process.VP, process.FLOW], ids=lambda f: f.name)
def test_a_restoration_reproduces_the_measurement(name, family):
    operator = OPERATORS[name]
    x = jax.random.uniform(jax.random.key(1), (1, *SIZE, 3), minval=-1.0)
    y = operator.forward(x)
    found = drawn(solvers.ddim(family, 0.85), operator, y, family)
    error = operator.forward(found) - y
    assert float(jnp.abs(error).max()) < 1e-5
    # What is not measured is the model's, and differs from image to image.
    assert float(jnp.abs(found - x).max()) > 0.1


@pytest.mark.parametrize("name", OPERATORS)
def test_projecting_twice_is_projecting_once(name):
    operator = OPERATORS[name]
    x, other = jax.random.normal(jax.random.key(2), (2, 1, *SIZE, 3))
    y = operator.forward(other)
    once = null_space.project(operator, x, y)
    np.testing.assert_allclose(null_space.project(operator, once, y), once, atol=5e-5)


@pytest.mark.parametrize(
    "solver",
    [
        solvers.ancestral,
        solvers.ddim,
        lambda family: solvers.ddim(family, 0.85),
        solvers.heun,
        solvers.dpmpp_2m,
    ],
    ids=["ancestral", "ddim", "ddim_eta", "heun", "dpmpp_2m"],
)
def test_a_projecting_solver_is_the_solver_on_a_projected_denoise_function(solver):
    operator, family = OPERATORS["average"], process.VP
    y = operator.forward(jnp.full((1, *SIZE, 3), 0.2))
    model = Gaussian()
    grid = grids.uniform_t(schedules.cosine(), 8)
    keys = rng.derive_example_keys(rng.derive_key(0, 0, "restore"), jnp.arange(6))
    own = null_space.project_solver(solver(family), operator, y)
    found = travel.restore(
        model.denoiser(family),
        own,
        lambda x: null_space.project(operator, x, y),
        grid,
        keys,
        (*SIZE, 3),
        family,
    )
    want = drawn(solver(family), operator, y, steps=8)
    np.testing.assert_allclose(found, want, atol=2e-5)


SAMPLERS = {
    "ddim": lambda operator, y, family: solvers.ddim(family),
    "ancestral": lambda operator, y, family: solvers.ancestral(family),
    "ddnm": ddnm.ddnm,
    "ddnm_ddim": functools.partial(ddnm.ddnm, as_ddim=True),
}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("family", [process.VP, process.FLOW], ids=lambda f: f.name)
@pytest.mark.parametrize("name", ["inpaint", "average", "old_photo"])
def test_the_mean_of_samples_is_that_of_the_posterior(name, family, sampler):
    """For independent Gaussian pixels: A⁺y + (I - A⁺A) m."""
    operator, model = OPERATORS[name], Gaussian()
    x = jax.random.uniform(jax.random.key(3), (1, *SIZE, 3), minval=-1.0)
    y, count = operator.forward(x), 1024
    make = SAMPLERS[sampler]
    if sampler.startswith("ddnm"):
        found = restored(make(operator, y, family), operator, y, family, count)
    else:
        found = drawn(make(operator, y, family), operator, y, family, count=count)
    mean = jnp.full((1, *SIZE, 3), model.mean)
    want = null_space.project(operator, mean, y)[0]
    # Each of 192 means of 1024 numbers: 5 standard errors.
    np.testing.assert_allclose(
        found.mean(0), want, atol=5 * model.std / np.sqrt(count), rtol=0
    )


def restored(solver, operator, y, family, count, steps=20):
    """Draws with a solver that projects by itself."""
    grid = grids.uniform_t(schedules.cosine(), steps)
    keys = rng.derive_example_keys(rng.derive_key(0, 0, "restore"), jnp.arange(count))

    def finish(x):
        return null_space.project(operator, x, y)

    model = Gaussian().denoiser(family)
    how = model, solver, finish, grid, keys, (*SIZE, 3), family
    return jax.jit(lambda: travel.restore(*how))()


@pytest.mark.parametrize(
    "solver",
    [
        solvers.ddim(process.VP, 0.0),
        solvers.ddim(process.VP, 1.0),
        solvers.ancestral(process.VP, 0.0),
        solvers.ancestral(process.VP, 1.0),
    ],
    ids=["ddim", "ddim_eta", "ancestral", "ancestral_wide"],
)
def test_the_null_space_variance_converges_to_that_of_the_posterior(solver):
    """Independent Gaussian pixels: what is not measured keeps its variance."""
    operator, model = OPERATORS["inpaint"], Gaussian()
    y = operator.forward(jnp.zeros((1, *SIZE, 3)))
    errors = []
    for steps in (8, 64, 512):
        found = drawn(solver, operator, y, steps=steps, count=512)
        unknown = found[:, 1::2]  # 512 x 96 independent numbers
        errors.append(abs(float(unknown.var()) / model.std**2 - 1))
    # A variance of 49152 numbers is known to sqrt(2 / 49152) = 0.0064.
    assert errors[0] > 0.09 and errors[0] > 1.5 * errors[1] > errors[2]
    assert errors[2] < 0.02


@pytest.mark.parametrize("family", [process.VP, process.FLOW], ids=lambda f: f.name)
@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_the_covariance_of_a_block_converges_to_that_of_the_posterior(sampler, family):
    """Of independent pixels with a known mean: std^2 (I - 1/n), not diagonal."""
    operator, model = OPERATORS["average"], Gaussian()
    y = operator.forward(jnp.zeros((1, *SIZE, 3)))
    want = model.std**2 * (np.eye(4) - 0.25)
    errors = []
    for steps in (8, 64, 512):
        solver = SAMPLERS[sampler](operator, y, family)
        found = np.asarray(drawn(solver, operator, y, family, steps, count=512))
        blocks = found.reshape(512, 4, 2, 4, 2, 3).transpose(0, 1, 3, 5, 2, 4)
        covariance = np.cov(blocks.reshape(-1, 4).T)  # of 24576 blocks
        errors.append(np.abs(covariance - want).max() / model.std**2)
    assert errors[2] < 0.02 < errors[0]
    assert errors[0] > 1.5 * errors[1] > errors[2]


def test_ddnm_draws_too_little_variance():
    """By how much is known for independent pixels: see the benchmark of priors."""
    operator, model = OPERATORS["inpaint"], Gaussian()
    y = operator.forward(jnp.zeros((1, *SIZE, 3)))
    solver = ddnm.ddnm(operator, y)
    found = restored(solver, operator, y, process.VP, 256, steps=300)
    share = float(found[:, 1::2].var()) / model.std**2
    # The limit of many steps is (1 + sqrt(1 - eta^2)) / 2 = 0.76.
    assert 0.70 < share < 0.77


def test_clipping_comes_before_the_projection():
    operator = OPERATORS["average"]
    y = operator.forward(jnp.full((1, *SIZE, 3), 0.9))

    def wild(z_t, logsnr):
        return 5 * z_t

    denoise = null_space.project_denoiser(guidance.clip_static(wild), operator, y)
    z = jax.random.normal(jax.random.key(0), (1, *SIZE, 3))
    found = denoise(z, jnp.zeros(1))
    np.testing.assert_allclose(operator.forward(found), y, atol=1e-6)
