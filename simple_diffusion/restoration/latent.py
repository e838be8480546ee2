"""In-painting where diffusion happens in the cells of an autoencoder.

A cell of the latent image is known if the pixels it depends on are. A convolutional
encoder looks far beyond its cell, and near a hole it sees the hole: cells there are not
to be trusted, and the hole grows by a few. What is drawn for them is decoded, and then
the known pixels are put back, exactly.

The observation, known pixels of a decoded latent image, is not linear, so this is a
heuristic of the projection: z' = M E(y) + (1 - M) z.
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
      factor: pixels along a side of a cell; 1 where diffusion happens in pixels.
      mode: "nearest" asks the first pixel of each cell alone; "block_max" calls a cell
        hole if any of its pixels is.
      dilate_low: cells by which the hole grows towards smaller indices, on both axes.
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
            f"restore.dilate={(dilate_low, dilate_high)} must not be negative: the "
            "hole never shrinks"
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
    # A cell turns into hole if one is within dilate_low after it or dilate_high before.
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
    """Returns the original where it is known, the image in the hole.

    A choice and no blend: known pixels keep their bits.
    """
    return jnp.where(known_mask > 0, original, image)
