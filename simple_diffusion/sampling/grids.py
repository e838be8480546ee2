"""Grids: the noise levels at which a solver evaluates the network.

A grid is n values of logsnr, ascending from noise to image, as a float32 array of the
host. A first-order solver calls the network once at each; the estimate x_hat at the
last one is the sample (loop.py). A grid is independent of the schedule and the time
distribution of training, and can be chosen freely after training.
"""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int

from simple_diffusion.diffusion.discrete import TabulatedSchedule
from simple_diffusion.diffusion.schedules import Schedule

Grid = Float32[np.ndarray, "n"]
Spacing = Literal["leading", "trailing", "linspace"]


def uniform_t(schedule: Schedule, n: int) -> Grid:
    """Returns the schedule at t = 1, (n-1)/n, ..., 1/n (arXiv 2301.11093)."""
    _check(n)
    t = jnp.arange(n, 0, -1, dtype=jnp.float32) / n
    return np.asarray(schedule(t), np.float32)


def uniform_logsnr(schedule: Schedule, n: int) -> Grid:
    """Returns n equal steps in logsnr between the ends of the schedule.

    The first value is the noisy end; a further step would reach the clean end.
    """
    _check(n)
    noisy, clean = np.asarray(schedule(jnp.array([1.0, 0.0])), np.float64)
    return np.linspace(noisy, clean, n, endpoint=False).astype(np.float32)


def karras(
    n: int, rho: float = 7.0, sigma_min: float = 0.002, sigma_max: float = 80.0
) -> Grid:
    """Returns the grid of EDM (arXiv 2206.00364, Eq. 5), for any trained model.

    Args:
      n: how many values; a single one is sigma_max.
      rho: the steps are equal in sigma^(1/rho); a larger rho gives more steps at low
        noise.
      sigma_min: the last sigma/alpha visited.
      sigma_max: the first.
    """
    _check(n)
    ramp = np.linspace(0.0, 1.0, n)
    noisy, clean = sigma_max ** (1.0 / rho), sigma_min ** (1.0 / rho)
    return logsnr_from_sigma((noisy + ramp * (clean - noisy)) ** rho).astype(np.float32)


def discrete(schedule: TabulatedSchedule, n: int, spacing: Spacing) -> Grid:
    """Returns the levels of n steps of a discrete schedule, see `timesteps`."""
    steps = timesteps(len(schedule.table), n, spacing)
    return np.asarray(schedule.table, np.float32)[steps]


def timesteps(total: int, n: int, spacing: Spacing) -> Int[np.ndarray, "n"]:
    """Returns n of the steps 0, ..., total - 1 of a discrete process, descending.

    Args:
      total: number of steps of the process.
      n: how many.
      spacing: "leading" is every (total // n)-th step, from 1 on, as latent diffusion
        and Stable Diffusion are sampled; "trailing" counts from the last step downwards
        and "linspace" from the last to the first (arXiv:2305.08891, table 2).

    Raises:
      ValueError: if n is not in [1, total], or the spacing is unknown.
    """
    _check(n)
    if n > total:
        raise ValueError(f"{n} steps of a discrete schedule that has {total}")
    match spacing:
        case "leading":
            # From 1, but never beyond the last step.
            steps = np.arange(n) * (total // n) + (1 if n < total else 0)
            return steps[::-1].copy()
        case "trailing":
            return np.round(np.arange(total, 0, -total / n)).astype(int)[:n] - 1
        case "linspace":
            return np.round(np.linspace(total - 1, 0, n)).astype(int)
    raise ValueError(f"spacing={spacing!r} must be leading, trailing or linspace")


def logsnr_from_sigma(sigma):
    """Returns -2 log(sigma), for the sigma/alpha in which EDM states noise levels."""
    return -2.0 * np.log(sigma)


def _check(n: int) -> None:
    if n < 1:
        raise ValueError(f"a grid of {n} steps must have at least 1")
