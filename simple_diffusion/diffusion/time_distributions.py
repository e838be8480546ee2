"""Distributions of t in training; the schedule maps t to logsnr.

A time distribution is a sampler together with its density. The loss is divided by the
density, so the distribution selects the noise levels and does not change the expected
loss.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simple_diffusion.core.types import Key

# The float32 nearest to 1 from below; its mirror keeps the two ends alike.
_MARGIN = 2.0**-24


class TimeDistribution(NamedTuple):
    """A distribution of t on [0, 1].

    sample: (key, n) -> t [n].
    log_density: t [n] -> log p(t) [n].
    """

    sample: Callable[[Key, int], Float[Array, "n"]]
    log_density: Callable[[Float[Array, "n"]], Float[Array, "n"]]


def uniform() -> TimeDistribution:
    """Returns independent, uniform times."""
    return TimeDistribution(
        lambda key, n: jax.random.uniform(key, (n,)), jnp.zeros_like
    )


def stratified() -> TimeDistribution:
    """Returns stratified uniform times: one in each of n equal parts of [0, 1].

    Each single time is uniform, and the batch covers the noise levels evenly. This
    removes most of the variance of the loss (VDM, arXiv 2107.00630, appendix I.1).
    """
    return TimeDistribution(_stratified_uniform, jnp.zeros_like)


def logit_normal(mean: float = 0.0, std: float = 1.0) -> TimeDistribution:
    """Returns t = sigmoid(mean + std n) for standard normal n, drawn in strata.

    A positive mean prefers noise. Here t = 1 is pure noise; some papers reverse time
    (arXiv 2403.03206, arXiv 2511.13720).
    """

    def sample(key: Key, n: int) -> Float[Array, "n"]:
        u = jnp.clip(_stratified_uniform(key, n), _MARGIN, 1.0 - _MARGIN)
        t = jax.nn.sigmoid(mean + std * jax.scipy.special.ndtri(u))
        return jnp.clip(t, _MARGIN, 1.0 - _MARGIN)

    def log_density(t: Float[Array, "n"]) -> Float[Array, "n"]:
        # As the samples are clipped; at the ends themselves it would be NaN.
        t = jnp.clip(t, _MARGIN, 1.0 - _MARGIN)
        log_t, log_1_t = jnp.log(t), jnp.log1p(-t)
        normal = -0.5 * jnp.square((log_t - log_1_t - mean) / std)
        return normal - math.log(std * math.sqrt(2.0 * math.pi)) - log_t - log_1_t

    return TimeDistribution(sample, log_density)


def _stratified_uniform(key: Key, n: int) -> Float[Array, "n"]:
    offset_key, order_key = jax.random.split(key)
    t = (jax.random.uniform(offset_key) + jnp.arange(n) / n) % 1.0
    # Shuffled, because otherwise a device or a microbatch would get neighbouring times
    # and so only one part of the noise levels.
    return jax.random.permutation(order_key, t)
