"""Decorators of denoise functions: guidance between two of them, and clipping.

At a fixed z_t every kind of prediction is an affine function of x_hat, and guidance is
an affine combination, so guiding x_hat is guiding eps or v. Clipping is not affine:
guide first, then clip, as in `clip_static(guide(strong, weak, 2.0))`.
"""

from collections.abc import Callable, Sequence
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
            (weight,),
            logsnr,
            alone=lambda: strong(z_t, logsnr),
            all_of=lambda: (weak(z_t, logsnr), strong(z_t, logsnr)),
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
    return compose(bind, (null_cond, cond), (weight,))


def compose(
    bind: Callable[[Conditioning], DenoiseFn],
    conds: Sequence[Conditioning],
    weights: Sequence[Weight],
) -> DenoiseFn:
    """Returns guidance with a weight for each condition, in one call of the network.

    The conditions are added one after the other: with x_0 the estimate without any and
    x_i the one with the first i of k conditions,

        x = x_0 + sum_i w_i (x_i - x_{i-1}) = x_k + sum_i (w_i - 1) (x_i - x_{i-1}).

    Weight 1 everywhere gives x_k, weights that are all w give x_0 + w (x_k - x_0).
    Source: InstructPix2Pix (arXiv 2211.09800), section 3.2.1, for any k.

    Args:
      bind: conditioning -> denoise function, one network for all.
      conds: k + 1 conditionings of the same fields, from none of the conditions to all.
      weights: of the k conditions; numbers, or functions of logsnr that are 1 for the
        whole batch at the same noise levels, where only `conds[-1]` is called.
    """
    count = len(conds)
    if len(weights) != count - 1 or count < 2:
        raise ValueError(f"{count} conditionings need {count - 1} weights")

    def denoise(z_t: Image, logsnr: LogSNR) -> Image:
        def all_of() -> list[Image]:
            joined = jax.tree.map(_interleave, *conds[::-1])
            z, level = (_interleave(*(v,) * count) for v in (z_t, logsnr))
            x = bind(joined)(z, level)
            sets = x.reshape(-1, count, *x.shape[1:])
            return [sets[:, k] for k in reversed(range(count))]

        return _apply_guidance(
            weights,
            logsnr,
            alone=lambda: bind(conds[-1])(z_t, logsnr),
            all_of=all_of,
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
    weights: Sequence[Weight],
    logsnr: LogSNR,
    alone: Callable[[], Image],
    all_of: Callable[[], Sequence[Image]],
) -> Image:
    def combine(numbers: Sequence[Any]) -> Image:
        x = all_of()
        # Not x_0 + w (x_1 - x_0): this form gives exactly the last for w = 1.
        total = x[-1]
        for w, before, after in zip(numbers, x, x[1:], strict=False):
            total = total + (w - 1.0) * (after - before)
        return total

    values = [w(logsnr) if callable(w) else w for w in weights]
    if not any(map(callable, weights)):
        return alone() if all(v == 1.0 for v in values) else combine(values)
    is_off = jnp.stack([jnp.all(jnp.asarray(v) == 1.0) for v in values]).all()
    columns = [jnp.reshape(v, (-1, 1, 1, 1)) for v in values]
    return jax.lax.cond(is_off, alone, lambda: combine(columns))


def _interleave(*parts: Array) -> Array:
    # a0 b0 a1 b1 ...: those of an image stay on the same device of a split batch.
    return jnp.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:])
