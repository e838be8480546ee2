"""Averages of the parameters over training: exponential and power-function profiles.

At each update an average moves a fraction of the distance towards the parameters:

    ema_n = ema_{n-1} + rate(n) (params_n - ema_{n-1}),    n = 1, 2, ...

Exponential: rate = 1 - decay. Power function (EDM2, "Analyzing and Improving the
Training Dynamics of Diffusion Models", section 3.1): rate(n) = 1 - (1 - 1/n)^(gamma+1).
The product of the decays telescopes. After t updates params_i therefore has weight

    (i^(gamma+1) - (i-1)^(gamma+1)) / t^(gamma+1),

the integral over [i-1, i] of p_t(tau) = (gamma+1) tau^gamma / t^(gamma+1). The length
of the average is therefore a fixed fraction of the training so far: sigma_rel, the
standard deviation of that profile over t.

Linear combinations of stored averages are averages too. Two profiles have the inner
product (their section 3.2)

    <p_a, p_b> = (g_a+1)(g_b+1) min(a,b)^(g_a+g_b+1)
                 / ((g_a+g_b+1) a^(g_a+1) b^(g_b+1)),

and the combination nearest to a target profile solves a small least-squares problem.
The length of the average can therefore be chosen after training. Its weights are then
divided by their sum: all averages share the mean of the parameters over the training,
so weights that sum to 0.9 scale the network down by a tenth.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from simple_diffusion.core.types import Params


@runtime_checkable
class Average(Protocol):
    """The rate of an average as a function of the update."""

    def __call__(self, update: Int[Array, ""]) -> Float[Array, ""]:
        """Returns the weight of the new parameters at this update, counted from 1."""
        ...


@dataclass(frozen=True)
class Exponential:
    """The average with a constant decay.

    decay: 0.9999 in simple diffusion, appendix.
    warm_up: if True, the decay of update n is at most (1 + n) / (10 + n). The random
      initial parameters then lose their weight after some tens of updates, instead of
      tens of thousands with a constant decay of 0.9999.
    """

    decay: float = 0.9999
    warm_up: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"an EMA decay lies in [0, 1), got {self.decay}")

    def __call__(self, update: Int[Array, ""]) -> Float[Array, ""]:
        """Returns 1 - decay."""
        # 1 - decay on the host: in float32 the difference would lose four digits.
        rate = jnp.float32(1 - self.decay)
        if not self.warm_up:
            return rate
        return jnp.maximum(rate, 9.0 / (10.0 + update.astype(jnp.float32)))


@dataclass(frozen=True)
class PowerFunction:
    """The average whose length is a fixed fraction of the training so far.

    sigma_rel: its standard deviation as a fraction; EDM2 tracks 0.05 and 0.10.
    """

    sigma_rel: float

    def __post_init__(self) -> None:
        gamma_of(self.sigma_rel)

    def __call__(self, update: Int[Array, ""]) -> Float[Array, ""]:
        """Returns 1 - (1 - 1/n)^(gamma+1); 1 at the first update."""
        power = gamma_of(self.sigma_rel) + 1
        return -jnp.expm1(power * jnp.log1p(-1.0 / update.astype(jnp.float32)))


def gamma_of(sigma_rel: float) -> float:
    """Returns the exponent of the profile of a given relative length.

    Solves sigma_rel^2 (gamma+2)^2 (gamma+3) = gamma+1 (EDM2, eq. 126).

    Raises:
      ValueError: outside (0, 0.288), where no such profile with gamma > 0 exists.
    """
    if not 0 < sigma_rel < 12**-0.5:
        raise ValueError(
            f"sigma_rel lies between 0 and 0.288 (a uniform average of all "
            f"training), got {sigma_rel}"
        )
    t = sigma_rel**-2
    return float(np.roots([1, 7, 16 - t, 12 - t]).real.max())


def update(
    ema: Mapping[str, Params],
    params: Params,
    averages: Mapping[str, Average],
    count: Int[Array, ""],
) -> dict[str, Params]:
    """Returns all tracked averages after one update.

    Args:
      ema: averages by name, each a tree like `params`.
      params: the new parameters.
      averages: how each of them averages, by the same names.
      count: the number of this update, from 1.
    """

    def update_average(name: str) -> Params:
        rate = averages[name](count)
        return jax.tree.map(lambda a, p: a + rate * (p - a), ema[name], params)

    return {name: update_average(name) for name in ema}


def inner_products(
    steps_a: Float[np.ndarray, "a"],
    gammas_a: Float[np.ndarray, "a"],
    steps_b: Float[np.ndarray, "b"],
    gammas_b: Float[np.ndarray, "b"],
) -> Float[np.ndarray, "a b"]:
    """Returns the integral of the product of each profile of a with each of b.

    Computed in float64 and in logarithms: step^gamma overflows any float.
    """
    step_a, gamma_a = steps_a[:, None], gammas_a[:, None]
    power = gamma_a + gammas_b + 1
    return np.exp(
        np.log((gamma_a + 1) * (gammas_b + 1) / power)
        + power * np.log(np.minimum(step_a, steps_b))
        - (gamma_a + 1) * np.log(step_a)
        - (gammas_b + 1) * np.log(steps_b)
    )


def reconstruction_weights(
    steps: Sequence[int],
    sigma_rels: Sequence[float],
    target_step: int,
    target_sigma_rel: float,
) -> Float[np.ndarray, "n"]:
    """Returns the weights that combine stored averages into one of another length.

    Args:
      steps: number of updates that each stored average covers.
      sigma_rels: relative length of each of them.
      target_step: number of updates at which the target average ends.
      target_sigma_rel: its relative length.

    Returns:
      float64 weights that sum to 1: the least-squares solution, whose profile is the
      nearest to that of the target in mean square, divided by its sum (EDM2, section
      3.2 and its published code). `profile_distance` says how near it comes.

    Raises:
      ValueError: no stored average ends at or before the target step.
    """
    keep = [k for k, step in enumerate(steps) if step <= target_step]
    if not keep:
        raise ValueError(
            f"no stored average ends at or before step {target_step}: have {[*steps]}"
        )
    stored = (
        np.array([steps[k] for k in keep], np.float64),
        np.array([gamma_of(sigma_rels[k]) for k in keep]),
    )
    target = np.array([target_step], np.float64), np.array([gamma_of(target_sigma_rel)])
    # Neighbouring snapshots are nearly parallel. lstsq drops the directions that
    # float64 cannot distinguish instead of dividing by them.
    solution, *_ = np.linalg.lstsq(
        inner_products(*stored, *stored),
        inner_products(*stored, *target)[:, 0],
        rcond=None,
    )
    weights = np.zeros(len(steps))
    weights[keep] = solution / solution.sum()
    return weights


def profile_distance(
    steps: Sequence[int],
    sigma_rels: Sequence[float],
    weights: Float[np.ndarray, "n"],
    target_step: int,
    target_sigma_rel: float,
) -> float:
    """Returns how far a combination of profiles is from the profile that is asked for.

    The root mean square of the difference over that of the target profile: 0 where they
    are equal, 0.09 between the profiles of lengths 0.10 and 0.11 at the same step.

    Args:
      steps: number of updates that each stored average covers.
      sigma_rels: relative length of each of them.
      weights: of the combination, see `reconstruction_weights`.
      target_step: number of updates at which the target average ends.
      target_sigma_rel: its relative length.
    """
    ends = np.array([*steps, target_step], np.float64)
    gammas = np.array([gamma_of(s) for s in (*sigma_rels, target_sigma_rel)])
    products = inner_products(ends, gammas, ends, gammas)
    difference = np.append(weights, -1.0)
    # Rounding may take the square of a vanishing distance below zero.
    square = max(difference @ products @ difference, 0.0)
    return float(np.sqrt(square / products[-1, -1]))


def combine(trees: Iterable[Params], weights: Float[np.ndarray, "n"]) -> Any:
    """Returns the weighted sum of trees on the host, reading one tree at a time.

    Sums in float64, because the weights alternate in sign; returns float32.
    """
    total = None
    for tree, weight in zip(trees, weights, strict=True):
        scaled = jax.tree.map(lambda a, w=weight: np.asarray(a, np.float64) * w, tree)
        total = scaled if total is None else jax.tree.map(np.add, total, scaled)
    return jax.tree.map(lambda a: a.astype(np.float32), total)
