"""Inpainting in the latent space of an autoencoder.

A cell of the latent image is known if the pixels that it depends on are known. The
receptive field of a convolutional encoder is larger than a cell, so cells near a hole
depend on the hole. They are treated as unknown: the hole is dilated by a few cells.
After decoding, the known pixels are restored exactly.

The measurement, known pixels of a decoded latent image, is not linear. The projection
z' = M E(y) + (1 - M) z is therefore a heuristic.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Mask = Float[Array, "b h w 1"]
Image = Float[Array, "b h w c"]

MODES = ("nearest", "block_max")


def known_cells(
    known_mask: Mask,
    factor: int,
    *,
    mode: str = "nearest",
    dilate_low: int = 2,
    dilate_high: int = 2,
) -> Float[Array, "b H W 1"]:
    """Returns which cells of factor x factor pixels are known: 1 known, 0 to be filled.

    Args:
      known_mask: 1 for known pixels, 0 for the hole.
      factor: pixels along a side of a cell; 1 for diffusion in pixels.
      mode: "nearest" uses the first pixel of each cell; with "block_max" a cell belongs
        to the hole if any of its pixels does.
      dilate_low: dilation of the hole towards smaller indices, in cells, on both axes.
      dilate_high: towards larger ones.

    Raises:
      ValueError: an unknown mode, a side that the factor does not divide, a negative
        number of cells.
    """
    b, h, w, _ = known_mask.shape
    if h % factor or w % factor:
        raise ValueError(
            f"restore.input: {h}x{w} pixels are no multiple of the autoencoder's "
            f"{factor}; the nearest smaller size is restore.size="
            f"{h // factor * factor}x{w // factor * factor}"
        )
    if min(dilate_low, dilate_high) < 0:
        raise ValueError(
            f"restore.dilate={(dilate_low, dilate_high)} must not be negative"
        )
    hole = 1.0 - known_mask
    if mode == "nearest":
        hole = hole[:, ::factor, ::factor]
    elif mode == "block_max":
        hole = hole.reshape(b, h // factor, factor, w // factor, factor, 1)
        hole = hole.max(axis=(2, 4))
    else:
        raise ValueError(
            f"restore.mask_mode={mode!r} is unknown; known: {', '.join(MODES)}"
        )
    # A cell joins the hole if a hole cell is at most dilate_low after it or dilate_high
    # before it.
    reach = dilate_low + dilate_high + 1
    pad = (dilate_high, dilate_low)
    grown = jax.lax.reduce_window(
        hole,
        0.0,
        jax.lax.max,
        (1, reach, reach, 1),
        (1,) * 4,
        ((0, 0), pad, pad, (0, 0)),
    )
    return 1.0 - grown


def paste(image: Image, original: Image, known_mask: Mask) -> Image:
    """Returns the original where it is known, and the image in the hole.

    Selects and does not blend, so that known pixels are bit-exact.
    """
    return jnp.where(known_mask > 0, original, image)
