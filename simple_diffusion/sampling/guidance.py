"""Decorators of denoise functions: guidance between two of them, and clipping.

At a fixed z_t every kind of prediction is an affine function of x_hat, and guidance is
an affine combination, so guiding x_hat is guiding eps or v. Clipping is not affine:
guide first, then clip, as in `clip_static(guide(strong, weak, 2.0))`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simple_diffusion.core import arrays
from simple_diffusion.core.types import Conditioning, DenoiseFn

Image = Float[Array, "b h w c"]
LogSNR = Float[Array, "b"]

# A number, or a function of logsnr. Weight 1 is the strong function alone, 0 the weak
# one, and more than 1 goes beyond the strong one. Papers that write (1 + eta) strong -
# eta weak mean eta = weight - 1.
Weight = float | Callable[[LogSNR], LogSNR]


def guide(strong: DenoiseFn, weak: DenoiseFn, weight: Weight) -> DenoiseFn:
    """Returns weak + weight (strong - weak).

    With a smaller or less trained network as `weak` this is autoguidance (arXiv
    2406.02507). Where a function `weight` is 1 for the whole batch, `weak` is not
    called.
    """

    def denoise(z_t: Image, logsnr: LogSNR) -> Image:
        return _apply_guidance(
            weight,
            logsnr,
            alone=lambda: strong(z_t, logsnr),
            both=lambda: (strong(z_t, logsnr), weak(z_t, logsnr)),
        )

    return denoise


def classifier_free(
    bind: Callable[[Conditioning], DenoiseFn],
    cond: Conditioning,
    null_cond: Conditioning,
    weight: Weight,
) -> DenoiseFn:
    """Returns classifier-free guidance in one call of twice the batch.

    Source: arXiv 2207.12598.

    Args:
      bind: conditioning -> denoise function, one network for both.
      cond: the conditioning of each image.
      null_cond: the same fields with their null values.
      weight: as for `guide`; where it is 1 the batch is not doubled.
    """

    def denoise(z_t: Image, logsnr: LogSNR) -> Image:
        def both() -> tuple[Image, Image]:
            conds = jax.tree.map(_interleave, cond, null_cond)
            x = bind(conds)(_interleave(z_t, z_t), _interleave(logsnr, logsnr))
            pairs = x.reshape(-1, 2, *x.shape[1:])
            return pairs[:, 0], pairs[:, 1]

        return _apply_guidance(
            weight, logsnr, alone=lambda: bind(cond)(z_t, logsnr), both=both
        )

    return denoise


def interval(weight: float, low: float, high: float) -> Callable[[LogSNR], LogSNR]:
    """Returns `weight` for low <= logsnr < high and 1 elsewhere (arXiv 2404.07724).

    Guidance helps at middle noise levels only; `grids.logsnr_from_sigma` converts
    limits stated as EDM's sigma, and a schedule those stated as t.
    """

    def weight_at(logsnr: LogSNR) -> LogSNR:
        inside = (low <= logsnr) & (logsnr < high)
        return jnp.where(inside, weight, 1.0)

    return weight_at


def clip_static(denoise: DenoiseFn) -> DenoiseFn:
    """Returns x_hat limited to [-1, 1]; for pixels, never for latents."""

    def denoise_and_clip(z_t: Image, logsnr: LogSNR) -> Image:
        return jnp.clip(denoise(z_t, logsnr), -1.0, 1.0)

    return denoise_and_clip


def clip_dynamic(denoise: DenoiseFn, percentile: float = 0.995) -> DenoiseFn:
    """Returns x_hat limited to, and divided by, a high quantile of its magnitude.

    Strong guidance moves images out of range as a whole, where `clip_static` would
    saturate them. The quantile is computed per image, and is used only where it exceeds
    1 (dynamic thresholding, arXiv 2205.11487, section 2.3).
    """

    def denoise_and_clip(z_t: Image, logsnr: LogSNR) -> Image:
        x = denoise(z_t, logsnr)
        magnitude = jnp.abs(x).reshape(x.shape[0], -1)
        limit = jnp.maximum(jnp.quantile(magnitude, percentile, axis=1), 1.0)
        limit = arrays.expand_dims_like(limit, x)
        return jnp.clip(x, -limit, limit) / limit

    return denoise_and_clip


def _apply_guidance(
    weight: Weight,
    logsnr: LogSNR,
    alone: Callable[[], Image],
    both: Callable[[], tuple[Image, Image]],
) -> Image:
    def combine(w: Any) -> Image:
        strong, weak = both()
        # Not weak + w (strong - weak): this form gives exactly strong for w = 1.
        return strong + (w - 1.0) * (strong - weak)

    if not callable(weight):
        return alone() if weight == 1.0 else combine(weight)
    w = weight(logsnr)
    return jax.lax.cond(
        jnp.all(w == 1.0),
        alone,
        lambda: combine(w.reshape(-1, 1, 1, 1)),
    )


def _interleave(a: Array, b: Array) -> Array:
    # a0 b0 a1 b1 ...: both of a pair stay on the same device of a split batch.
    return jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])
