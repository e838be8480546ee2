"""Conditions that become an image or a vector; see `specs` for values and nulls.

`dropped` is True for examples in which the null takes the place of the value.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from simple_diffusion.nets import conditions
from simple_diffusion.nets.conditioning import specs
from simple_diffusion.nets.conditioning.specs import Size

Image = Float[Array, "b h w c"]


class SemanticMap(nn.Module):
    """One-hot classes, their mean over the cells of the input, a 1x1 convolution."""

    spec: specs.SemanticMap

    @nn.compact
    def __call__(
        self,
        ids: Int[Array, "b h w"] | Int[Array, "b h w 1"],
        dropped: Bool[Array, "b"],
        size: Size,
    ) -> Float[Array, "b H W k"]:
        """Returns the image, of the input's `size`.

        Raises:
          ValueError: if the size of the map is not a multiple of that of the input.
        """
        s = self.spec
        ids = ids[..., 0] if ids.ndim == 4 else ids
        ids = jnp.where(dropped[:, None, None], -1, ids)  # which is no class
        # One entry of a one-hot vector is 1: rows of unit variance give unit variance.
        init = nn.initializers.normal(1.0)
        kernel = self.param("kernel", init, (s.classes, s.channels), jnp.float32)
        image = jax.nn.one_hot(ids, s.classes) @ kernel
        factor = ids.shape[1] // size[0]
        if factor < 1 or ids.shape[1:] != (size[0] * factor, size[1] * factor):
            raise ValueError(
                f"{s.name!r} is {ids.shape[1]}x{ids.shape[2]}, which is no multiple of"
                f" the input's {size[0]}x{size[1]}"
            )
        blocks = image.reshape(-1, size[0], factor, size[1], factor, s.channels)
        # Both maps are linear, so the mean may come after the smaller tensor.
        return blocks.mean((2, 4))


def select_map(
    spec: specs.Map, value: Image, dropped: Bool[Array, "b"]
) -> Float[Array, "b h w k"]:
    """Returns the map and a channel that is 1 where there is one.

    Raises:
      ValueError: if the map has another number of channels than the spec says.
    """
    _check_channels(spec, value)
    kept = ~dropped[:, None, None, None]
    presence = jnp.broadcast_to(kept, (*value.shape[:3], 1)).astype(value.dtype)
    return jnp.concatenate([jnp.where(kept, value, 0), presence], axis=-1)


def erase_hole(
    spec: specs.Inpainting,
    image: Image,
    mask: Float[Array, "b h w"] | Float[Array, "b h w 1"],
    dropped: Bool[Array, "b"],
) -> Float[Array, "b h w k"]:
    """Returns the image without the hole, and then the mask, 1 in the hole.

    Raises:
      ValueError: if the image has another number of channels than the spec says, or
        another size than the mask.
    """
    _check_channels(spec, image)
    mask = mask if mask.ndim == 4 else mask[..., None]
    if mask.shape[:3] != image.shape[:3]:
        raise ValueError(
            f"{spec.name!r} has a mask of {mask.shape[1]}x{mask.shape[2]} and an image"
            f" of {image.shape[1]}x{image.shape[2]}"
        )
    everywhere = dropped[:, None, None, None]
    mask = jnp.where(everywhere, 1, mask).astype(image.dtype)
    image = jnp.where(everywhere, 0, image)
    if spec.erase:
        image = image * (1 - mask)
    return jnp.concatenate([image, mask], axis=-1)


class LowResolution(nn.Module):
    """The image, and the vector of the level of its noise."""

    spec: specs.LowResolution
    width: int

    @nn.compact
    def __call__(
        self, image: Image, logsnr: Float[Array, "b"], dropped: Bool[Array, "b"]
    ) -> tuple[Image, Float[Array, "b d"]]:
        """Returns the image and the vector, [b, width].

        Raises:
          ValueError: if the image has another number of channels than the spec says.
        """
        _check_channels(self.spec, image)
        # Of the time of the cosine schedule, which is finite at both ends.
        level = conditions.logsnr_input("inv_cos", logsnr.astype(jnp.float32), 0.0, 1.0)
        wave = conditions.sinusoid(level, self.spec.sinusoid_channels)
        vector = Vector(self.width, name="level")(wave, dropped)
        return jnp.where(dropped[:, None, None, None], 0, image), vector


class Vector(nn.Module):
    """A Dense layer and swish; a learned value where the condition is dropped.

    The Dense layer of the port follows (`conditions.Embedding`), as for the noise
    level. In float32, like the embedding.
    """

    width: int

    @nn.compact
    def __call__(
        self, value: Float[Array, "b k"], dropped: Bool[Array, "b"]
    ) -> Float[Array, "b d"]:
        """Returns the vector, [b, width]."""
        init = nn.initializers.normal(1.0)
        null = self.param("null", init, value.shape[1:], jnp.float32)
        value = jnp.where(dropped[:, None], null[None], value.astype(jnp.float32))
        return nn.swish(nn.Dense(self.width, name="dense")(value))


def _check_channels(
    spec: specs.Map | specs.LowResolution | specs.Inpainting, image: Image
) -> None:
    if image.shape[-1] != spec.channels:
        raise ValueError(
            f"{spec.name!r} has {image.shape[-1]} channels, and this network was built"
            f" for {spec.channels}"
        )
