"""Adam and AdamW with clipping, and learning-rate schedules.

The learning rate is used as configured. It is never scaled by the batch size, the
number of devices or the accumulation, and it is reported at each step.
"""

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from simple_diffusion.core import arrays
from simple_diffusion.core.types import Params
from simple_diffusion.training import sharding

# The number of past updates -> the learning rate of the next one.
LearningRate = Callable[[Any], Any]

SHAPES = ("constant", "cosine", "rsqrt")


class Optimizer(NamedTuple):
    """The transformation of gradients, and the learning rate it uses.

    transform: optax; `updates, opt_state = transform.update(grads, opt_state, params)`.
    learning_rate: number of past updates -> rate, reported with each step.
    """

    transform: optax.GradientTransformation
    learning_rate: LearningRate


def learning_rate(
    peak: float,
    *,
    shape: str = "constant",
    warmup_steps: int = 0,
    total_steps: int | None = None,
    final: float = 0.0,
    decay_from: int | None = None,
) -> LearningRate:
    """Returns a learning-rate schedule with a linear warm-up.

    Args:
      peak: the rate after the warm-up.
      shape: "constant"; "cosine", which reaches `final` at `total_steps`; "rsqrt",
        which is peak * sqrt(decay_from / n) for n > decay_from (EDM2, section 2.3).
      warmup_steps: update n = 1, 2, ... of the warm-up uses peak * n / warmup_steps, so
        the first update has a positive rate.
      total_steps: required by "cosine".
      final: last value of "cosine", in the units of `peak`.
      decay_from: update at which "rsqrt" starts to decay; by default, the end of the
        warm-up.

    Raises:
      ValueError: the shape is unknown, or an argument that it requires is missing.
    """
    if shape not in SHAPES:
        raise ValueError(
            f"learning-rate shape {shape!r} must be one of {', '.join(SHAPES)}"
        )
    if shape == "cosine" and (total_steps is None or total_steps <= warmup_steps):
        raise ValueError(
            f"a cosine learning rate needs total_steps > warmup_steps={warmup_steps}, "
            f"got total_steps={total_steps}"
        )
    start = warmup_steps if decay_from is None else decay_from
    if shape == "rsqrt" and start < 1:
        raise ValueError("an rsqrt learning rate needs a warm-up or decay_from >= 1")

    def rate(count: Int[Array, ""] | int) -> Float[Array, ""]:
        n = jnp.asarray(count, jnp.float32) + 1  # the number of the next update
        value = jnp.float32(peak)
        if shape == "cosine":
            assert total_steps is not None
            progress = (n - 1 - warmup_steps) / (total_steps - warmup_steps)
            cosine = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(progress, 0.0, 1.0)))
            value = final + (peak - final) * cosine
        elif shape == "rsqrt":
            value = peak * jnp.sqrt(start / jnp.maximum(n, start))
        return value * jnp.minimum(1.0, n / max(1, warmup_steps))

    return rate


def adam(
    rate: LearningRate,
    *,
    b1: float = 0.9,
    b2: float = 0.99,
    eps: float = 1e-12,
    weight_decay: float = 0.0,
    decayed: str = r"(^|/)kernel$",
    clip: float | None = 1.0,
) -> Optimizer:
    """Returns Adam, or AdamW if there is a weight decay.

    Args:
      rate: the learning rate.
      b1: decay of the first moment.
      b2: decay of the second; 0.99 and eps 1e-12 in simple diffusion, appendix.
      eps: added to the root of the second moment.
      weight_decay: of AdamW, multiplied by the learning rate; 0 in all published
        recipes here.
      decayed: regular expression for the paths of the parameters that decay, such as
        "trunk/mlp/kernel". Not by rank, because a bias of stacked blocks has two axes.
      clip: largest global norm of the gradient; None for no limit.
    """
    steps = []
    if clip is not None:
        steps.append(_clip_by_global_norm(clip))
    steps.append(optax.scale_by_adam(b1=b1, b2=b2, eps=eps))
    if weight_decay:
        mask = functools.partial(_match_paths, pattern=decayed)
        steps.append(optax.add_decayed_weights(weight_decay, mask=mask))
    steps.append(optax.scale_by_learning_rate(rate))
    return Optimizer(optax.chain(*steps), rate)


def _clip_by_global_norm(limit: float) -> optax.GradientTransformation:
    # For a gradient of zero, optax's version divides 0 by 0 and discards the result,
    # which NaN checks report as an error. The scale here is exactly 1 below the limit.
    def clip(grads: Params, params: Params | None) -> Params:
        scale = limit / jnp.maximum(arrays.tree_norm(grads), limit)
        return jax.tree.map(lambda g: scale * g, grads)

    return optax.stateless(clip)


def _match_paths(params: Params, pattern: str) -> Params:
    return jax.tree_util.tree_map_with_path(
        lambda path, _: re.search(pattern, sharding.path_name(path)) is not None, params
    )
