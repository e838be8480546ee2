"""The class that is seen at each pixel of an image."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Int32, UInt8

from simple_diffusion.evaluation.networks.predictors import pyramid
from simple_diffusion.evaluation.networks.predictors.training import Predictor, Task

TARGET = "ids"
# Weight of a class by the share of its pixels: share^-1/4, for shares above this one.
_RARITY, _LEAST_SHARE = 0.25, 1e-3


class _Segmenter(nn.Module):
    classes: int
    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b h w k"]:
        size = x.shape[1], x.shape[2]
        cell = pyramid.cell_size(size)
        features = pyramid.Pyramid(cell, self.widths)(x)
        return pyramid.to_pixels(nn.Dense(cell**2 * self.classes)(features), cell, size)


def make_task(classes: int, widths: tuple[int, ...] = pyramid.WIDTHS) -> Task:
    """Returns the task of a segmenter.

    Its target is "ids", class numbers [b, h, w] of the pixels; those that are -1 do not
    count.

    Args:
      classes: number of them.
      widths: of the network, multiples of 8.
    """

    def loss(logits: Array, targets: Mapping[str, Array]) -> Array:
        ids = targets[TARGET]
        has = ids >= 0
        known = jnp.maximum(ids, 0)
        errors = optax.softmax_cross_entropy_with_integer_labels(logits, known)
        weight = _rarity(known, has, classes)[known] * has
        return (errors * weight).sum() / jnp.maximum(weight.sum(), 1e-6)

    about = {"classes": classes, "widths": widths}
    return Task("segmenter", _Segmenter(classes, widths), loss, about)


def _rarity(
    ids: Int[Array, "b h w"], has: Bool[Array, "b h w"], classes: int
) -> Float[Array, "k"]:
    """Returns a weight of each class, larger for those with few pixels.

    Without it, classes of a thousandth of the pixels are never predicted.
    """
    counts = jnp.zeros(classes).at[ids.reshape(-1)].add(has.reshape(-1) * 1.0)
    share = counts / jnp.maximum(counts.sum(), 1)
    return (share + _LEAST_SHARE) ** -_RARITY


def segment(
    predictor: Predictor, pictures: UInt8[np.ndarray, "n h w c"]
) -> Int32[np.ndarray, "n H W"]:
    """Returns the most probable class of each pixel, at the size of the predictor."""
    return predictor(pictures).argmax(-1).astype(np.int32)
