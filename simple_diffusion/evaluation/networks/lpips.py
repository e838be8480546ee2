"""LPIPS v0.1, a learned perceptual distance of two images (arXiv:1801.03924).

Both images pass through the convolutions of AlexNet or VGG16. After five of the layers
the features of each pixel are normalised to unit length, and their squared difference
is weighted per channel; the weights were fitted to human judgements. Eq. 1 of the
paper:

  d = sum_l mean_{h,w} sum_c w_lc (a_lhwc / |a_lhw| - b_lhwc / |b_lhw|)^2.

The weights are public, but not part of this library. `load` reads a file that
`python -m simple_diffusion.modes.convert lpips` makes from files of PyTorch.
`lpips_layout.shapes` lists its arrays; `trunk` is the name of the network.
"""

import dataclasses
import functools
import hashlib
import itertools
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8

from simple_diffusion.core import images as pixels
from simple_diffusion.core.types import HostOrDevice, Params
from simple_diffusion.weights import lpips_layout, weight_files

# Mean and deviation of the training images of the trunks, for [-1, 1].
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_EPS = 1e-10  # added to the length, so that zero features stay zero
# Pixels per call: the VGG16 features of a pair of this size take 0.8 GB.
_PIXELS_AT_ONCE = 2**19
_COMMAND = "python -m simple_diffusion.modes.convert lpips"


@functools.partial(jax.jit, static_argnames="trunk")
def distance(
    params: Params, x: Float[Array, "n h w 3"], y: Float[Array, "n h w 3"], trunk: str
) -> Float[Array, "n"]:
    """Returns LPIPS of each pair, in float32.

    Args:
      params: arrays as described by `lpips_layout.shapes`.
      x: RGB images in [-1, 1].
      y: the images that they are compared with; LPIPS is symmetric.
      trunk: "alex" or "vgg".
    """
    total = jnp.zeros(len(x))
    features = zip(
        _features(params, x, trunk), _features(params, y, trunk), strict=True
    )
    for k, (a, b) in enumerate(features):
        difference = jnp.square(_unit(a) - _unit(b))
        weights = params[f"lin{k}"][None, None, None]
        total += jnp.mean(jnp.sum(difference * weights, -1), (1, 2))
    return total


def _features(
    params: Params, x: Float[Array, "n h w 3"], trunk: str
) -> list[Float[Array, "n _ _ _"]]:
    """Returns the features after each stage."""
    _, _, stages, pooled, window = lpips_layout.TRUNKS[trunk]
    x = (x.astype(jnp.float32) - jnp.asarray([[[_SHIFT]]])) / jnp.asarray([[[_SCALE]]])
    features, k = [], itertools.count()
    for stage, pool in zip(stages, pooled, strict=True):
        if pool:
            x = nn.max_pool(x, (window, window), (2, 2))
        for conv in stage:
            x = nn.relu(_convolve(params, f"conv{next(k)}", x, conv))
        features.append(x)
    return features


def _convolve(
    params: Params, name: str, x: Float[Array, "n h w c"], conv: lpips_layout.Conv
) -> Float[Array, "n H W d"]:
    x = lax.conv_general_dilated(
        x,
        params[f"{name}.kernel"],
        (conv.stride, conv.stride),
        [(conv.padding, conv.padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )
    return x + params[f"{name}.bias"][None, None, None]


def _unit(x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
    return x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + _EPS)


@dataclasses.dataclass(frozen=True, eq=False)
class Lpips:
    """LPIPS with its weights: (images, originals) -> one distance per pair.

    trunk: "alex" or "vgg"; values of the two cannot be compared.
    digest: of the file of weights, the first 12 digits of its SHA-256.
    params: arrays as described by `lpips_layout.shapes`.
    """

    trunk: str
    digest: str
    params: Params

    def supports(self, height: int, width: int, channels: int) -> bool:
        """Returns whether images of this size can be compared."""
        return (
            min(height, width) >= lpips_layout.TRUNKS[self.trunk].smallest
            and channels == 3
        )

    def check(self, height: int, width: int, channels: int) -> None:
        """Raises ValueError for images that are too small for the trunk, or not RGB."""
        title, side = (
            lpips_layout.TRUNKS[self.trunk].title,
            lpips_layout.TRUNKS[self.trunk].smallest,
        )
        if min(height, width) < side:
            raise ValueError(
                f"LPIPS with {title} needs images of at least {side}x{side} pixels, "
                f"got {height}x{width}"
            )
        if channels != 3:
            raise ValueError(f"LPIPS needs RGB images, got {channels} channels")

    def __call__(
        self,
        images: UInt8[HostOrDevice, "n h w c"] | Float[HostOrDevice, "n h w c"],
        originals: UInt8[HostOrDevice, "n h w c"] | Float[HostOrDevice, "n h w c"],
    ) -> Float[np.ndarray, "n"]:
        """Returns one distance per pair, 0 for equal images.

        Args:
          images: RGB, uint8 from 0 to 255 or floats in [-1, 1].
          originals: the images that they are compared with, likewise.

        Raises:
          ValueError: for images that are too small for the trunk, or not RGB.
        """
        self.check(*images.shape[1:])
        n, h, w, _ = images.shape
        at_once = max(1, _PIXELS_AT_ONCE // (h * w))
        distances = np.zeros(n, np.float32)
        for start in range(0, n, at_once):
            part = slice(start, start + at_once)
            x, y = _unit_range(images[part]), _unit_range(originals[part])
            distances[part] = distance(self.params, x, y, self.trunk)
        return distances


def _unit_range(
    x: UInt8[HostOrDevice, "n h w c"] | Float[HostOrDevice, "n h w c"],
) -> Float[Array, "n h w c"]:
    return pixels.to_unit_range(x) if x.dtype == jnp.uint8 else jnp.asarray(x)


def load(path: str | Path) -> Lpips:
    """Returns LPIPS with the weights of one local file.

    Args:
      path: a file that `convert_lpips` wrote.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: for a file of another kind, or with arrays missing or of other shapes,
        naming them.
    """
    path = Path(path).expanduser()
    arrays = weight_files.load(path, "weights of LPIPS", _COMMAND)
    trunk = str(arrays.get("trunk"))
    if trunk not in lpips_layout.TRUNKS:
        raise ValueError(f"{path} holds no weights of LPIPS; make them with {_COMMAND}")
    expected = lpips_layout.shapes(trunk)
    weight_files.check_arrays(str(path), arrays, expected)
    params = {name: jnp.asarray(arrays[name], jnp.float32) for name in expected}
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return Lpips(trunk, digest, params)
