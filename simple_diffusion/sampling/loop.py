"""From noise to image: one scan over the grid."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simple_diffusion.core import rng
from simple_diffusion.core.types import (
    DenoiseFn,
    HostOrDevice,
    Key,
    Progress,
    Solver,
)
from simple_diffusion.diffusion import process
from simple_diffusion.diffusion.process import VP, Family


def sample(
    denoise: DenoiseFn,
    solver: Solver,
    grid: Float[HostOrDevice, "n"],
    keys: Key,
    shape: tuple[int, ...],
    family: Family = VP,
    progress: Progress | None = None,
) -> Float[Array, "b h w c"]:
    """Returns one image per key.

    All random numbers of an image come from its own key, so that it does not depend on
    the other images of the batch or on the devices.

    Args:
      denoise: the denoise function.
      solver: the solver.
      grid: noise levels, ascending in logsnr. The network is called at each level, and
        x_hat at the last level is the image; n = 1 returns x_hat of pure noise.
      keys: one typed key per image, [b].
      shape: (h, w, c) of an image.
      family: the scale of z.
      progress: called on the host after every noise level of the grid.
    """
    grid = jnp.asarray(grid, jnp.float32)
    _, sigma = family.alpha_sigma(grid[0])
    z = sigma * rng.normal_per_example(rng.fold_in_all(keys, jnp.int32(0)), shape)
    return _finish(denoise, solver, z, grid, keys, progress)


def refine(
    denoise: DenoiseFn,
    solver: Solver,
    grid: Float[HostOrDevice, "n"],
    keys: Key,
    x: Float[Array, "b h w c"],
    family: Family = VP,
    progress: Progress | None = None,
) -> Float[Array, "b h w c"]:
    """Returns images like x, sampled from x noised to the first noise level.

    The coarse structure of x survives the noise; the rest is sampled as in `sample`
    (SDEdit, arXiv 2108.01073). Arguments as for `sample`.

    Args:
      x: images, for example smaller ones enlarged.
    """
    grid = jnp.asarray(grid, jnp.float32)
    noise = rng.normal_per_example(rng.fold_in_all(keys, jnp.int32(0)), x.shape[1:])
    level = jnp.broadcast_to(grid[0], keys.shape)
    z = process.add_noise(family, x, noise, level)
    return _finish(denoise, solver, z, grid, keys, progress)


def _finish(
    denoise: DenoiseFn,
    solver: Solver,
    z: Float[Array, "b h w c"],
    grid: Float[Array, "n"],
    keys: Key,
    progress: Progress | None,
) -> Float[Array, "b h w c"]:
    """Integrates z from the first noise level to the last; returns x_hat there."""
    z = integrate(denoise, solver, z, grid, keys, progress)
    x_hat = denoise(z, jnp.broadcast_to(grid[-1], keys.shape))
    if progress is not None:
        report(progress, len(grid), len(grid), x_hat)
    return x_hat


def report(progress: Progress, done: int | Array, steps: int, x_hat: Array) -> None:
    """Calls back to the host from inside a compiled program."""
    jax.debug.callback(lambda k, x: progress(int(k), steps, x), done, x_hat)


def integrate(
    denoise: DenoiseFn,
    solver: Solver,
    z: Float[Array, "b h w c"],
    grid: Float[HostOrDevice, "n"],
    keys: Key,
    progress: Progress | None = None,
) -> Float[Array, "b h w c"]:
    """Returns z at the last noise level of the grid, given z at the first.

    Arguments as for `sample`. The first level may be any, for example for a partly
    noised image.
    """
    grid = jnp.asarray(grid, jnp.float32)

    def body(carry, at):
        z_t, state = carry
        index, logsnr_t, logsnr_s = at
        estimates = []

        def recorded_denoise(z: Array, logsnr: Array) -> Array:
            estimates.append(denoise(z, logsnr))
            return estimates[-1]

        step_keys = rng.fold_in_all(keys, index)
        carry = solver.step(recorded_denoise, z_t, state, logsnr_t, logsnr_s, step_keys)
        if progress is not None:
            report(progress, index, len(grid), estimates[-1])
        return carry, None

    # Index 0 is the noise that `sample` starts from.
    index = jnp.arange(1, grid.shape[0])
    (z, _), _ = jax.lax.scan(body, (z, solver.init(z)), (index, grid[:-1], grid[1:]))
    return z
