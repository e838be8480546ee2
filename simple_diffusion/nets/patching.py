"""The first and the last operation: pixels to features and back.

The noise process and the loss stay in pixel space; a network of large images works on
patches. "none": 3x3 convolutions at full resolution. "dwt_1", "dwt_2", "haar_1",
"haar_2": one or two levels of `wavelets` around them. "conv_2", "conv_4", ...: a d x d
convolution with stride d, and transposed back. Source: simple diffusion
(arXiv 2301.11093), section 3.3 and table on down-sampling strategies.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from simple_diffusion.nets import layers, ops, wavelets
from simple_diffusion.nets.convolution import Conv3x3


class Patching(NamedTuple):
    """A parsed patching.

    kind: "none", "dwt", "haar" or "conv".
    levels: of the wavelet transform; 0 for "none" and "conv".
    factor: pixels along a side of one cell of the feature map.
    """

    kind: str
    levels: int
    factor: int


def parse(name: str) -> Patching:
    """Parses a name such as "none", "dwt_2" or "conv_4".

    Raises:
      ValueError: if the name is not of this form.
    """
    kind, _, number = name.partition("_")
    if name == "none":
        return Patching("none", 0, 1)
    if kind in ("dwt", "haar") and number.isdecimal() and int(number) > 0:
        return Patching(kind, int(number), 2 ** int(number))
    if kind == "conv" and number.isdecimal() and int(number) > 1:
        return Patching(kind, 0, int(number))
    raise ValueError(
        f"patching={name!r} must be none, dwt_N, haar_N (N levels) or conv_N (N pixels)"
    )


def check_size(size: tuple[int, ...], patching: str, levels: int) -> None:
    """Raises ValueError if a network cannot divide images of this height and width.

    Args:
      size: height and width.
      patching: see the module.
      levels: resolutions of the network, each half of the one before.
    """
    multiple = parse(patching).factor * 2 ** (levels - 1)
    if any(n % multiple or n <= 0 for n in size):
        nearest = [max(1, math.floor(n / multiple + 0.5)) * multiple for n in size]
        raise ValueError(
            f"image height and width must be multiples of {multiple}, got"
            f" {size[0]}x{size[1]}; nearest is {nearest[0]}x{nearest[1]}"
            f" (patching={patching!r}, {levels} levels)"
        )


def grid_size(size: tuple[int, int], patching: str, level: int) -> tuple[int, int]:
    """Returns height and width of the feature map of one level, counted from 0."""
    factor = parse(patching).factor * 2**level
    return size[0] // factor, size[1] // factor


class Stem(nn.Module):
    """Pixels -> features [b, h/f, w/f, channels], f the factor of the patching.

    Fields:
      channels: width of the result.
      patching: see the module.
      normalise_bands: whether wavelet bands are scaled so that white unit noise has
        unit variance in each (see `wavelets.noise_std`); the head undoes it.
      dtype: of the convolution; the wavelets are float32.
      joined: the last channels of the pixels that are those of a conditioning image.
        Their part of the kernel starts at zero, so that a fresh network ignores them.
    """

    channels: int
    patching: str = "none"
    normalise_bands: bool = False
    dtype: Any = jnp.float32
    joined: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W d"]:
        """Returns the features."""
        patching = parse(self.patching)
        init = nn.initializers.lecun_normal()
        if self.joined:
            init = _ignore_last(self.joined, x.shape[-1])
        options: dict[str, Any] = dict(kernel_init=init, dtype=self.dtype, name="conv")
        if patching.kind == "conv":
            # A convolution whose stride is its width is a Dense layer on patches.
            patches = ops.space_to_depth(x, patching.factor)
            return layers.Dense(self.channels, **options)(patches)
        if patching.kind != "none":
            kind = _wavelet(patching)
            x = wavelets.dwt2(x.astype(jnp.float32), patching.levels, kind)
            if self.normalise_bands:
                x = x / _band_scale(x, patching)
        return Conv3x3(self.channels, **options)(x)


def _ignore_last(joined: int, channels: int) -> nn.initializers.Initializer:
    """Returns an initializer that ignores the last `joined` of the channels of pixels.

    All patchings have the channel as the fastest part of the index. The other channels
    get the scale that they would have on their own.
    """

    def init(key: Array, shape: Any, dtype: Any = jnp.float32) -> Array:
        own = channels - joined
        kernel = nn.initializers.lecun_normal()(key, shape, dtype)
        kernel = kernel * math.sqrt(channels / own)
        is_own = jnp.arange(shape[-2]) % channels < own
        return jnp.where(is_own.reshape(*(1,) * (len(shape) - 2), -1, 1), kernel, 0)

    return init


class Head(nn.Module):
    """Features -> pixels in float32: norm, activation, zero convolution, unpatch.

    Fields:
      channels: of the pixels.
      style: see `layers.Style`.
      patching: as in the stem.
      normalise_bands: as in the stem.
      dtype: of the convolution; the wavelets are float32.
    """

    channels: int
    style: layers.Style
    patching: str = "none"
    normalise_bands: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, h: Float[Array, "b h w d"]) -> Float[Array, "b H W c"]:
        """Returns the pixels, zero in a fresh network."""
        patching = parse(self.patching)
        h = layers.Norm(self.style.conv_norm, dtype=self.dtype, name="norm")(h)
        h = layers.ACTIVATIONS[self.style.activation](h)
        width = self.channels * patching.factor**2
        if patching.kind == "conv":
            init = nn.initializers.zeros
            dense = layers.Dense(width, kernel_init=init, dtype=self.dtype, name="conv")
            return ops.depth_to_space(dense(h).astype(jnp.float32), patching.factor)
        conv = Conv3x3(width, zero=True, dtype=self.dtype, name="conv")
        x = conv(h).astype(jnp.float32)
        if patching.kind == "none":
            return x
        if self.normalise_bands:
            x = x * _band_scale(x, patching)
        return wavelets.idwt2(x, patching.levels, _wavelet(patching))


def _wavelet(patching: Patching) -> wavelets.Kind:
    return "haar" if patching.kind == "haar" else "legall"


def _band_scale(bands: Array, patching: Patching) -> Array:
    channels = bands.shape[-1] // patching.factor**2
    scale = wavelets.noise_std(channels, patching.levels, _wavelet(patching))
    return jnp.asarray(scale)[None, None, None]
