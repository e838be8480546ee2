"""From noise to a restored image, with time travel.

Early steps fix content that later steps cannot change. This content must agree with the
known pixels, but it is sampled before they determine it. Time travel (RePaint, arXiv
2201.09865; section 3.3 of 2212.00490) adds noise to z again and repeats the steps.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
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
from simple_diffusion.sampling import loop

Image = Float[Array, "b h w c"]


class Travel(NamedTuple):
    """When to go back to higher noise, and how.

    length: number of steps to go back at a time.
    repeat: how often each segment is passed in total; 1 never goes back.
    from_estimate: whether to compute the noisier z from the last x_hat, before its
      projection; otherwise from z, by the forward process.
    """

    length: int = 1
    repeat: int = 1
    from_estimate: bool = True


NO_TRAVEL = Travel()


def itinerary(steps: int, travel: Travel) -> list[int]:
    """Returns the noise levels in the order of the visits.

    Levels are numbered from the cleanest, 0, to the noisiest, steps - 1; -1 is the
    image. At the levels 0, length, 2 length, ... below steps - length the itinerary
    goes back up `length` levels, one at a time, `repeat` - 1 times each.

    Raises:
      ValueError: a number is below 1.
    """
    numbers = {
        "steps": steps,
        "travel_length": travel.length,
        "travel_repeat": travel.repeat,
    }
    for key, number in numbers.items():
        if number < 1:
            raise ValueError(f"restore.{key}={number} must be at least 1")
    turns = range(0, steps - travel.length, travel.length)
    left = dict.fromkeys(turns, travel.repeat - 1)
    level, visited = steps - 1, [steps - 1]
    while level >= 0:
        level -= 1
        visited.append(level)
        if left.get(level, 0):
            left[level] -= 1
            visited += range(level + 1, level + travel.length + 1)
            level += travel.length
    return visited


def network_calls(steps: int, travel: Travel) -> int:
    """Returns the network calls of a solver with one call per step.

    These are one call at each level, and one more for each step back.
    """
    visited = itinerary(steps, travel)
    return sum(b < a for a, b in itertools.pairwise(visited))


def restore(
    denoise: DenoiseFn,
    solver: Solver,
    finish: Callable[[Image], Image],
    grid: Float[HostOrDevice, "n"],
    keys: Key,
    shape: tuple[int, ...],
    family: Family = VP,
    travel: Travel = NO_TRAVEL,
    progress: Progress | None = None,
) -> Image:
    """Returns one image per key; all its random numbers come from its own key.

    Without travel it equals `sampling.loop.sample`.

    Args:
      denoise: the denoise function, not projected.
      solver: the solver; it projects the output of `denoise`.
      finish: x_hat at the last level -> image, for example the projection.
      grid: noise levels, ascending in logsnr.
      keys: one typed key per image, [b].
      shape: (h, w, c) of an image.
      family: the scale of z.
      travel: when to go back.
      progress: called on the host after every move, forwards or back; the last call
        gets the finished image.
    """
    grid = jnp.asarray(grid, jnp.float32)
    last = grid.shape[0] - 1
    start, end = _moves(itinerary(grid.shape[0], travel))

    def down(carry, logsnr_t, logsnr_s, keys):
        z, state, _ = carry
        estimates = []

        def recorded_denoise(z: Image, logsnr: Float[Array, "b"]) -> Image:
            estimates.append(denoise(z, logsnr))
            return estimates[-1]

        z, state = solver.step(recorded_denoise, z, state, logsnr_t, logsnr_s, keys)
        return z, state, estimates[-1]

    def back(carry, logsnr_s, logsnr_t, keys):
        z, _, x_hat = carry
        noise = rng.normal_per_example(keys, z.shape[1:])
        if travel.from_estimate:
            level = jnp.broadcast_to(logsnr_t, keys.shape)
            z = process.add_noise(family, x_hat, noise, level)
        else:
            q = process.transition(family, logsnr_t, logsnr_s)
            z = q.scale * z + jnp.sqrt(q.variance) * noise
        # The solver state belongs to the old trajectory: start a new one.
        return z, solver.init(z), x_hat

    moves = len(start) + 1

    def move(carry, at):
        index, a, b = at
        here = a, b, rng.fold_in_all(keys, index)
        if travel.repeat == 1:
            carry = down(carry, *here)
        else:
            carry = jax.lax.cond(a < b, down, back, carry, *here)
        if progress is not None:
            loop.report(progress, index, moves, carry[2])
        return carry, None

    _, sigma = family.alpha_sigma(grid[0])
    z = sigma * rng.normal_per_example(rng.fold_in_all(keys, jnp.int32(0)), shape)
    # Index 0 is the initial noise.
    index = jnp.arange(1, len(start) + 1)
    levels = index, grid[last - start], grid[last - end]
    (z, _, _), _ = jax.lax.scan(move, (z, solver.init(z), jnp.zeros_like(z)), levels)
    x = finish(denoise(z, jnp.broadcast_to(grid[-1], keys.shape)))
    if progress is not None:
        loop.report(progress, moves, moves, x)
    return x


def _moves(visited: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the start and end of each move; consecutive steps back are one move.

    The last move, to the image, is omitted. Going back from z in several steps has the
    same distribution as one longer step; from x_hat only the last step matters.
    """
    visited = visited[:-1]
    keep = [
        k
        for k, level in enumerate(visited)
        if not (0 < k < len(visited) - 1 and visited[k - 1] < level < visited[k + 1])
    ]
    stops = np.array([visited[k] for k in keep], np.int32)
    return stops[:-1], stops[1:]
