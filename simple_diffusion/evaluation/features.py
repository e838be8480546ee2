"""Feature functions: images in, one vector per image out.

A metric is named after its features. FID is the name of one trained network's features
and is used for no other.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

THUMBNAIL_SIZE = 8


def thumbnail(
    images: UInt8[Array, "b h w c"],
) -> Float[Array, "b d"]:
    """Returns each image shrunk to 8 x 8 pixels, as one vector in [0, 1].

    Needs no trained network. It sees colours, layout and their variety, and is blind to
    everything finer than an eighth of the image.
    """
    b, _, _, c = images.shape
    shape = (b, THUMBNAIL_SIZE, THUMBNAIL_SIZE, c)
    # With antialiasing 'linear' is a weighted mean over all the pixels of a cell.
    small = jax.image.resize(images.astype(jnp.float32) / 255, shape, "linear")
    return small.reshape(b, -1)
