"""The 3x3 convolution of all networks: plain, or aware of scale and of place."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from simple_diffusion.nets import position, safa
from simple_diffusion.nets.position import Place


class Conv3x3(nn.Module):
    """A 3x3 convolution with bias.

    Fields:
      channels: of the result.
      zero: whether its kernel starts at zero.
      padding: see `safa.convolve`.
      mixture: of kernels by the resolution of the whole image; None has one kernel.
      bands: above 0, the Fourier features of the place (`position.fourier`) are further
        input channels, whose part of the kernel starts at zero.
      dtype: of the computation.
    """

    channels: int
    zero: bool = False
    padding: safa.Padding = "zeros"
    mixture: safa.Mixture | None = None
    bands: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], place: Place | None = None
    ) -> Float[Array, "b h w d"]:
        """Returns the map, of the same height and width.

        Args:
          x: the map.
          place: of the map in the whole image; needed by a mixture and by bands.
        """
        zeros, shape = nn.initializers.zeros, (3, 3, x.shape[-1], self.channels)
        x = x.astype(self.dtype)
        if self.mixture is None:
            init = zeros if self.zero else nn.initializers.lecun_normal()
            kernel = self.param("kernel", init, shape, jnp.float32)
            bias = self.param("bias", zeros, (self.channels,), jnp.float32)[None]
            weights = jnp.ones((1, 1))
            y = safa.conv3x3(x, kernel.astype(self.dtype), self.padding)
        else:
            assert place is not None
            m = self.mixture
            init = zeros if self.zero else safa.related(m.spread)
            kernels = self.param("kernels", init, (m.experts, *shape), jnp.float32)
            biases = (m.experts, self.channels)
            biases = self.param("biases", zeros, biases, jnp.float32)
            weights = safa.Router(m, name="router")(place.whole)
            bias = weights @ biases
            y = safa.convolve(x, kernels, weights, self.padding, m.implementation)
        if self.bands:
            assert place is not None
            y = y + self._of_place(place, (x.shape[1], x.shape[2]), weights)
        return y + bias[:, None, None].astype(self.dtype)

    def _of_place(self, place: Place, size: tuple[int, int], weights: Array) -> Array:
        """Returns what the channels of Fourier features add, [b, h, w, channels].

        A feature of the row is equal along its row: it is convolved on a map three
        columns wide, and the middle one of the result repeated. Thus its dozens of
        channels cost next to nothing.
        """
        experts = weights.shape[1]
        maps = position.fourier(place, size, self.bands)
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
        for axis, (one, kernel) in enumerate(
            zip(maps, jnp.split(kernels, 2, axis=3), strict=True)
        ):
            across = 2 - axis  # the axis along which these features do not change
            n = size[1 - axis]
            narrow = jnp.expand_dims(one.astype(self.dtype), across)
            narrow = jnp.repeat(narrow, min(n, 3), across)
            total = total + _widen(convolve(narrow, kernel), n, across)
        return total


def _widen(x: Array, n: int, axis: int) -> Array:
    """Returns x with the middle of three entries along an axis repeated to make n."""
    if x.shape[axis] == n:
        return x
    first, middle, last = jnp.split(x, 3, axis)
    return jnp.concatenate([first, jnp.repeat(middle, n - 2, axis), last], axis)
