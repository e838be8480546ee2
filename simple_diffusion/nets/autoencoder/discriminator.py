"""The discriminator of patches, against which autoencoders are trained.

Source: Isola et al., arXiv:1611.07004 (PatchGAN), in the size of Esser et al.,
arXiv:2012.09841: 4x4 convolutions, of which all but the last two halve the resolution;
batch norm on all but the first and the last; leaky ReLU.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_SLOPE = 0.2  # of the leaky ReLU
_EPSILON = 1e-5  # of the norms
_WIDEST = 8  # in units of the base width


class Discriminator(nn.Module):
    """Images -> how real each patch looks, as a number.

    Norms use the statistics of the batch that they see, in training and else: a
    discriminator is never used on single images.

    Fields:
      layers: number of convolutions of stride 2; a patch has 70 pixels with three of
        them, 34 with two.
      base: width of the first.
      dtype: of the computation.
    """

    layers: int = 3
    base: int = 64
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"]) -> Float[Array, "b p q 1"]:
        """Returns one number per patch; above 0 means real.

        Raises:
          ValueError: if the image is smaller than what the convolutions reduce.
        """
        smallest = 2**self.layers * 3
        if min(image.shape[1:3]) < smallest:
            raise ValueError(
                f"images of {image.shape[1]}x{image.shape[2]} are too small for a "
                f"discriminator of {self.layers} layers, which needs {smallest} pixels "
                "a side"
            )
        h = image
        for k in range(self.layers + 1):
            width = self.base * min(2**k, _WIDEST)
            stride = 2 if k < self.layers else 1
            h = self._conv(width, stride, f"conv_{k}", use_bias=k == 0)(h)
            if k:
                h = BatchNorm(name=f"norm_{k}")(h)
            h = nn.leaky_relu(h, _SLOPE)
        return self._conv(1, 1, f"conv_{self.layers + 1}")(h).astype(jnp.float32)

    def _conv(
        self, width: int, stride: int, name: str, use_bias: bool = True
    ) -> nn.Conv:
        init = nn.initializers.normal(0.02)
        return nn.Conv(
            *(width, (4, 4), stride, 1),
            use_bias=use_bias,
            kernel_init=init,
            dtype=self.dtype,
            name=name,
        )


class BatchNorm(nn.Module):
    """Normalises each channel by its mean and variance over the batch."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns the normalised map."""

        def near_one(key: Array, shape: tuple[int, ...]) -> Array:
            return 1 + 0.02 * jax.random.normal(key, shape)

        shape = (x.shape[-1],)
        scale = self.param("scale", near_one, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        h = x.astype(jnp.float32)
        h = h - h.mean((0, 1, 2), keepdims=True)
        variance = jnp.square(h).mean((0, 1, 2), keepdims=True)
        h = h * jax.lax.rsqrt(variance + _EPSILON)
        return (h * scale[None, None, None] + bias[None, None, None]).astype(x.dtype)
