"""The 3x3 convolution of all networks: plain, or aware of scale and position."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from simple_diffusion.nets import position, safa
from simple_diffusion.nets.position import Region


class Conv3x3(nn.Module):
    """A 3x3 convolution with bias.

    Fields:
      channels: of the result.
      zero: whether its kernel starts at zero.
      padding: see `safa.convolve`.
      mixture: of kernels by the resolution of the full image; None has one kernel.
      bands: above 0, the Fourier features of the position (`position.fourier`) are
        additional input channels, whose part of the kernel starts at zero.
      dtype: of the computation.
      kernel_init: of a single kernel that does not start at zero.
    """

    channels: int
    zero: bool = False
    padding: safa.Padding = "zeros"
    mixture: safa.Mixture | None = None
    bands: int = 0
    dtype: Any = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], region: Region | None = None
    ) -> Float[Array, "b h w d"]:
        """Returns the map, of the same height and width.

        Args:
          x: the map.
          region: of the map in the full image; needed by a mixture and by bands.
        """
        zeros, shape = nn.initializers.zeros, (3, 3, x.shape[-1], self.channels)
        x = x.astype(self.dtype)
        if self.mixture is None:
            init = zeros if self.zero else self.kernel_init
            kernel = self.param("kernel", init, shape, jnp.float32)
            bias = self.param("bias", zeros, (self.channels,), jnp.float32)[None]
            weights = jnp.ones((1, 1))
            y = safa.conv3x3(x, kernel.astype(self.dtype), self.padding)
        else:
            assert region is not None
            m = self.mixture
            init = zeros if self.zero else safa.correlated_uniform(m.spread)
            kernels = self.param("kernels", init, (m.experts, *shape), jnp.float32)
            biases = (m.experts, self.channels)
            biases = self.param("biases", zeros, biases, jnp.float32)
            weights = safa.Router(m, name="router")(region.full_size)
            bias = weights @ biases
            y = safa.convolve(x, kernels, weights, self.padding, m.implementation)
        if self.bands:
            assert region is not None
            y = y + self._position_features(region, (x.shape[1], x.shape[2]), weights)
        return y + bias[:, None, None].astype(self.dtype)

    def _position_features(
        self, region: Region, size: tuple[int, int], weights: Array
    ) -> Array:
        """Returns the contribution of the Fourier features, [b, h, w, channels].

        A feature of the row is constant along the row. It is therefore convolved on a
        map three columns wide, and the middle column of the result is repeated. This
        makes dozens of channels almost free.
        """
        experts = weights.shape[1]
        maps = position.fourier(region, size, self.bands)
        f = maps[0].shape[-1]
        shape = (experts, 3, 3, 2 * f, self.channels)
        init = nn.initializers.zeros
        kernels = self.param("place_kernels", init, shape, jnp.float32)
        convolve = partial(
            safa.convolve,
            weights=weights,
            padding=self.padding,
            implementation="experts",
        )
        total = jnp.zeros((), self.dtype)
        for axis, (feature, kernel) in enumerate(
            zip(maps, jnp.split(kernels, 2, axis=3), strict=True)
        ):
            across = 2 - axis  # the axis along which these features do not change
            n = size[1 - axis]
            narrow = jnp.expand_dims(feature.astype(self.dtype), across)
            narrow = jnp.repeat(narrow, min(n, 3), across)
            total = total + _widen(convolve(narrow, kernel), n, across)
        return total


def _widen(x: Array, n: int, axis: int) -> Array:
    """Repeats the middle of three entries along an axis until there are n entries."""
    if x.shape[axis] == n:
        return x
    first, middle, last = jnp.split(x, 3, axis)
    return jnp.concatenate([first, jnp.repeat(middle, n - 2, axis), last], axis)
