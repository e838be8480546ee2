"""Attributes of an image: one value of each, such as its colour."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int32, UInt8

from simple_diffusion.evaluation.networks.predictors import pyramid
from simple_diffusion.evaluation.networks.predictors.training import Predictor, Task

_WIDTHS = (16, 32, 64)
_HIDDEN = 256


class _Reader(nn.Module):
    """Images in [-1, 1] -> logits of each attribute."""

    sizes: tuple[tuple[str, int], ...]
    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> dict[str, Float[Array, "b _"]]:
        # The mean of each cell is enough, and cheap.
        b, _, _, c = x.shape
        x = pyramid.to_cells(x, pyramid.cell_size((x.shape[1], x.shape[2])))
        x = x.reshape(*x.shape[:3], -1, c).mean(3)
        for width in self.widths:
            x = pyramid.conv(pyramid.conv(x, width), width)
            x = nn.max_pool(x, (2, 2), (2, 2), "SAME")
        x = nn.relu(nn.Dense(_HIDDEN)(x.reshape(b, -1)))
        return {name: nn.Dense(size, name=name)(x) for name, size in self.sizes}


def make_task(sizes: Mapping[str, int], widths: tuple[int, ...] = _WIDTHS) -> Task:
    """Returns the task of an attribute reader.

    Its targets are numbers [b] by the name of the attribute; -1 where an image does not
    have it.

    Args:
      sizes: number of values of each attribute.
      widths: of the convolutions, multiples of 8.
    """

    def loss(logits: dict[str, Array], targets: Mapping[str, Array]) -> Array:
        total = jnp.zeros(())
        for name, value in targets.items():
            has = value >= 0
            errors = optax.softmax_cross_entropy_with_integer_labels(
                logits[name], jnp.maximum(value, 0)
            )
            total += (errors * has).sum() / jnp.maximum(has.sum(), 1)
        return total

    network = _Reader(tuple(sizes.items()), widths)
    about = {"sizes": dict(sizes), "widths": widths}
    return Task("attribute reader", network, loss, about)


def read(
    predictor: Predictor, pictures: UInt8[np.ndarray, "n h w c"]
) -> dict[str, Int32[np.ndarray, "n"]]:
    """Returns the most probable value of each attribute."""
    return {
        name: logits.argmax(-1).astype(np.int32)
        for name, logits in predictor(pictures).items()
    }
