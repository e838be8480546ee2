"""Feature networks: images in, one vector per image out.

A metric is named after its feature network. FID stands for the features of one
Inception network only.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from simple_diffusion.core.types import HostOrDevice, Params

THUMBNAIL_SIZE = 8


class Outputs(NamedTuple):
    """Outputs of a feature network; None for those that it does not have.

    Fields:
      features: by which sets of images are compared.
      spatial: features with positions, for sFID.
      logits: of classes.
    """

    features: Float[HostOrDevice, "b d"]
    spatial: Float[HostOrDevice, "b k"] | None = None
    logits: Float[HostOrDevice, "b classes"] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureNetwork:
    """A feature network with its weights.

    name: "inception", "dinov2_b", "dinov2_l", "thumbnail", or the data source that a
      classifier was trained on, such as "scenes".
    digest: the first 12 digits of the SHA-256 of the weights; "" without weights.
    resize: the rule by which images are resized to the size of its input.
    params: its weights.
    apply: (params, uint8 images of any one size) -> outputs; pure.
    class_names: of the logits, if these are the classes of a data source.
    version: of what `apply` computes. Stored features are only used with the same
      version: increase it with every change to the numbers.
    """

    name: str
    digest: str
    resize: str
    params: Params
    apply: Callable[[Params, UInt8[Array, "b h w c"]], Outputs]
    class_names: tuple[str, ...] = ()
    version: int = 1


def thumbnail() -> FeatureNetwork:
    """Returns features without a trained network: each image at 8 x 8 pixels.

    They measure colours, layout and their diversity, but nothing finer than an eighth
    of the image.
    """
    return FeatureNetwork("thumbnail", "", "area", {}, _thumbnail)


def _thumbnail(params: Params, images: UInt8[Array, "b h w c"]) -> Outputs:
    del params
    b, _, _, c = images.shape
    shape = (b, THUMBNAIL_SIZE, THUMBNAIL_SIZE, c)
    # With antialiasing 'linear' is a weighted mean over all pixels of a cell.
    small = jax.image.resize(images.astype(jnp.float32) / 255, shape, "linear")
    return Outputs(small.reshape(b, -1))
