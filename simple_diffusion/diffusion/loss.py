"""Quadratic losses of an error image, one number per example.

An error is prediction minus target, in any space. The training step takes the mean over
the batch.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from simple_diffusion.core import arrays
from simple_diffusion.core.types import LossFn


def mse(error: Float[Array, "b h w c"]) -> Float[Array, "b"]:
    """Returns the mean over pixels and channels of the squared error."""
    return arrays.mean_per_example(jnp.square(error.astype(jnp.float32)))


NORMALISATIONS: tuple[str, ...] = ("mean", "paper")


def multiscale_mse(smallest: int = 32, normalise: str = "mean") -> LossFn:
    """Returns the mean squared error summed over scales (arXiv 2301.11093, Eq. 9).

    With d the side of the image, the scales are s = d, d/2, d/4, ... as long as s is at
    least `smallest` and the sides stay integers. The error, averaged to side s, enters
    with weight 1/s. Averaging keeps coarse errors and removes fine ones, so coarse
    errors weigh more: at d = 512 a constant error weighs 31 times as much as at one
    scale, and pixel-sized noise hardly more than once.

    Args:
      smallest: the smallest side.
      normalise: "mean" multiplies by d, so that the finest scale has weight 1 and the
        loss keeps the size of `mse`, on which gradient clipping depends; "paper" does
        not.

    Raises:
      ValueError: another `normalise`.
    """
    if normalise not in NORMALISATIONS:
        raise ValueError(f"normalise={normalise!r} must be one of {NORMALISATIONS}")

    def loss(error: Float[Array, "b h w c"]) -> Float[Array, "b"]:
        error = error.astype(jnp.float32)
        height, width = error.shape[1:3]
        total = mse(error)
        factor = 1
        while height % 2 == 0 and width % 2 == 0 and min(height, width) >= 2 * smallest:
            error = _halve(error)
            height, width, factor = height // 2, width // 2, 2 * factor
            total = total + factor * mse(error)
        if normalise == "paper":
            # Not square: the side of the square of equal area.
            total = total / (factor * math.sqrt(height * width))
        return total

    return loss


def _halve(v: Float[Array, "b h w c"]) -> Float[Array, "b h/2 w/2 c"]:
    b, h, w, c = v.shape
    return v.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))
