"""How training draws t; the schedule then says which logsnr that is.

A law is a sampler together with its density, by which the loss is divided: a law
decides where the samples fall, and never what the loss is.
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


class TimeLaw(NamedTuple):
    """A distribution of t on [0, 1].

    sample: (key, n) -> t [n].
    log_density: t [n] -> log p(t) [n].
    """

    sample: Callable[[Key, int], Float[Array, "n"]]
    log_density: Callable[[Float[Array, "n"]], Float[Array, "n"]]


def uniform() -> TimeLaw:
    """Returns the law of independent, uniform times."""
    return TimeLaw(lambda key, n: jax.random.uniform(key, (n,)), jnp.zeros_like)


def stratified() -> TimeLaw:
    """Returns uniform times of which each n-th of [0, 1] holds exactly one.

    Each time alone is uniform, but the batch covers the noise levels evenly, which
    takes most of the variance out of the loss (VDM, arXiv 2107.00630, appendix I.1).
    """
    return TimeLaw(_stratified_uniform, jnp.zeros_like)


def logit_normal(mean: float = 0.0, std: float = 1.0) -> TimeLaw:
    """Returns t = sigmoid(mean + std n) for standard normal n, drawn in strata.

    A positive mean prefers noise: time runs to t = 1 at pure noise here, and the other
    way in some papers (arXiv 2403.03206, arXiv 2511.13720).
    """

    def sample(key: Key, n: int) -> Float[Array, "n"]:
        u = jnp.clip(_stratified_uniform(key, n), _MARGIN, 1.0 - _MARGIN)
        t = jax.nn.sigmoid(mean + std * jax.scipy.special.ndtri(u))
        return jnp.clip(t, _MARGIN, 1.0 - _MARGIN)

    def log_density(t: Float[Array, "n"]) -> Float[Array, "n"]:
        log_t, log_1_t = jnp.log(t), jnp.log1p(-t)
        normal = -0.5 * jnp.square((log_t - log_1_t - mean) / std)
        return normal - math.log(std * math.sqrt(2.0 * math.pi)) - log_t - log_1_t

    return TimeLaw(sample, log_density)


def _stratified_uniform(key: Key, n: int) -> Float[Array, "n"]:
    offset_key, order_key = jax.random.split(key)
    t = (jax.random.uniform(offset_key) + jnp.arange(n) / n) % 1.0
    # Shuffled, or neighbours in a batch would be neighbours in time, and a device or a
    # microbatch would see one part of the noise levels at a time.
    return jax.random.permutation(order_key, t)
