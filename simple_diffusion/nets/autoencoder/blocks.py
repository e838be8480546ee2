"""Blocks of the autoencoders: residual block, attention, and changes of resolution.

They are those of the first stages of latent diffusion (arXiv 2112.10752, appendix), not
those of our denoisers: there is no embedding of a noise level, and the strided
convolution pads below and on the right only, which published weights depend on.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from simple_diffusion.nets import ops
from simple_diffusion.nets.convolution import Conv3x3
from simple_diffusion.nets.layers import Dense, Norm


class ResBlock(nn.Module):
    """Norm, swish and a 3x3 convolution, twice, plus a shortcut.

    Fields:
      channels: width of the result.
      dtype: of the computation.
    """

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        """Returns [b, h, w, channels]."""
        h = x
        for k in (1, 2):
            h = nn.swish(Norm("group", dtype=self.dtype, name=f"norm_{k}")(h))
            h = Conv3x3(self.channels, dtype=self.dtype, name=f"conv_{k}")(h)
        if x.shape[-1] != self.channels:
            x = Dense(self.channels, dtype=self.dtype, name="shortcut")(x)
        return x + h


class Attention(nn.Module):
    """x + self-attention of the norm of x, with a single head over all channels."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns the map; for the memory of n x n weights see `ops.attention`."""
        b, h, w, c = x.shape
        y = Norm("group", dtype=self.dtype, name="norm")(x)
        q, k, v = (
            Dense(c, dtype=self.dtype, name=name)(y).reshape(b, h * w, 1, c)
            for name in ("query", "key", "value")
        )
        y = ops.attention(q, k, v).reshape(x.shape)
        return x + Dense(c, dtype=self.dtype, name="out")(y)


class Down(nn.Module):
    """A 3x3 convolution of stride 2, padded by one pixel below and on the right."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h/2 w/2 c"]:
        """Returns the map at half the resolution."""
        padding = ((0, 1), (0, 1))
        conv = nn.Conv(x.shape[-1], (3, 3), 2, padding, dtype=self.dtype, name="conv")
        return conv(x)


class Up(nn.Module):
    """Repeats each pixel as 2x2 pixels, then a 3x3 convolution."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c"]:
        """Returns the map at twice the resolution."""
        conv = Conv3x3(x.shape[-1], dtype=self.dtype, name="conv")
        return conv(ops.upsample_nearest(x))
