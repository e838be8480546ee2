"""Autoencoders of latent diffusion: images <-> maps of fewer, richer cells.

The architecture is that of the first stages of Rombach et al., arXiv:2112.10752,
appendix, which follow Esser et al., arXiv:2012.09841: residual blocks with group norm,
attention in the middle and at chosen resolutions, and either a normal distribution of
the latents ("KL") or a codebook ("VQ"). `LAYOUTS` lists those that were published.

All is convolutional but for attention: an image may have any size that the factor
divides. Attention and group norm see the whole image, so the latents of a part of an
image are not exactly a part of its latents.

Shapes: b batch, h height, w width, c channels of images, e channels of latents.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simple_diffusion.core.types import Key
from simple_diffusion.nets.autoencoder.blocks import Attention, Down, ResBlock, Up
from simple_diffusion.nets.autoencoder.quantization import Quantized, quantize
from simple_diffusion.nets.convolution import Conv3x3
from simple_diffusion.nets.layers import Dense, Norm

# Bounds of the logarithm of the variance.
_LOW, _HIGH = -30.0, 20.0


@dataclass(frozen=True)
class Layout:
    """Sizes of an autoencoder.

    Fields:
      multipliers: width of each level in units of `base`, the finest first; each level
        but the last halves the resolution.
      latent: channels of the latents, before and after the 1x1 convolutions.
      codebook: number of entries; 0 is a normal distribution of the latents.
      attention: factors, in pixels a cell, of the levels with attention in each block.
      has_middle_attention: whether there is attention at the coarsest level.
      base: width of the unit.
      blocks: residual blocks of a level of the encoder; a decoder has one more.
    """

    multipliers: tuple[int, ...]
    latent: int
    codebook: int = 0
    attention: tuple[int, ...] = ()
    has_middle_attention: bool = True
    base: int = 128
    blocks: int = 2

    def __post_init__(self):
        known = [2**k for k in range(len(self.multipliers))]
        if not set(self.attention) <= set(known):
            raise ValueError(f"attention={self.attention} must be some of {known}")

    @property
    def factor(self) -> int:
        """Pixels of a cell of the latents, along each side."""
        return 2 ** (len(self.multipliers) - 1)


# By the names in the repository of latent diffusion; "kl_f8" is also the autoencoder of
# Stable Diffusion. There, attention is listed by the resolution that a level has for
# images of 256 pixels.
LAYOUTS = {
    "kl_f4": Layout((1, 2, 4), 3),
    "kl_f8": Layout((1, 2, 4, 4), 4),
    "kl_f16": Layout((1, 1, 2, 2, 4), 16, attention=(16,)),
    "kl_f32": Layout((1, 1, 2, 2, 4, 4), 64, attention=(16, 32)),
    "vq_f4": Layout((1, 2, 4), 3, 8192),
    "vq_f4_noattn": Layout((1, 2, 4), 3, 8192, has_middle_attention=False),
    "vq_f8": Layout((1, 2, 2, 4), 4, 16384, attention=(8,)),
    "vq_f8_n256": Layout((1, 2, 2, 4), 4, 256, attention=(8,)),
    "vq_f16": Layout((1, 1, 2, 2, 4), 8, 16384, attention=(16,)),
}


class Posterior(NamedTuple):
    """A normal distribution of the latents of an image, independent in each entry."""

    mean: Float[Array, "b h w e"]
    logvar: Float[Array, "b h w e"]

    def sample(self, keys: Key) -> Float[Array, "b h w e"]:
        """Returns a sample of each, by one key per image."""
        shape = self.mean.shape[1:]
        eps = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
        return self.mean + jnp.exp(0.5 * self.logvar) * eps

    def kl(self) -> Float[Array, "b"]:
        """Returns the divergence from the standard normal distribution, in nats."""
        terms = jnp.square(self.mean) + jnp.exp(self.logvar) - 1.0 - self.logvar
        return 0.5 * terms.sum((1, 2, 3))


class Autoencoder(nn.Module):
    """An encoder and a decoder; call its methods `encode`, `decode` and `quantize`.

    Fields:
      layout: the sizes.
      channels: of the images.
      dtype: of the computation; parameters, and all at the latents, are float32.
    """

    layout: Layout
    channels: int = 3
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Declares the parts."""
        n = self.layout
        is_kl = not n.codebook
        width = 2 * n.latent if is_kl else n.latent
        self.encoder = Encoder(n, width, self.dtype)
        self.decoder = Decoder(n, self.dtype)
        # In float32: the weight of the adversarial loss is taken from its gradients.
        self.last = Conv3x3(self.channels)
        self.quant_conv = Dense(width)
        self.post_quant_conv = Dense(n.latent)
        if not is_kl:
            self.codebook = self.param(
                "codebook", _codebook_init, (n.codebook, n.latent)
            )

    def __call__(self, image: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns the reconstruction; its purpose is to create all parameters."""
        latent = self.encode(image)
        return self.decode(latent.mean if isinstance(latent, Posterior) else latent)

    def encode(
        self, image: Float[Array, "b h w c"]
    ) -> Posterior | Float[Array, "b H W e"]:
        """Returns the distribution of the latents; with a codebook, their exact values.

        Those are the values before they are quantized: diffusion needs no codebook, and
        `decode` quantizes.

        Args:
          image: in [-1, 1]; sides are multiples of the factor.

        Raises:
          ValueError: if they are not.
        """
        factor = self.layout.factor
        if image.shape[1] % factor or image.shape[2] % factor:
            raise ValueError(
                f"images of {image.shape[1]}x{image.shape[2]} pixels: both sides must "
                f"be multiples of {factor}, the factor of the autoencoder"
            )
        z = self.quant_conv(self.encoder(image).astype(jnp.float32))
        if self.layout.codebook:
            return z
        mean, logvar = jnp.split(z, 2, axis=-1)
        return Posterior(mean, jnp.clip(logvar, _LOW, _HIGH))

    def quantize(self, z: Float[Array, "b h w e"]) -> Quantized:
        """Returns the nearest entries of the codebook."""
        return quantize(z, self.codebook)

    def decode(self, z: Float[Array, "b h w e"]) -> Float[Array, "b H W c"]:
        """Returns images, about in [-1, 1]; with a codebook, z is quantized first."""
        if self.layout.codebook:
            z = self.quantize(z).values
        return self.decode_quantized(z)

    def decode_quantized(self, z: Float[Array, "b h w e"]) -> Float[Array, "b H W c"]:
        """Returns images of latents that are quantized already, or never are."""
        return self.last(self.decode_features(z))

    def decode_features(self, z: Float[Array, "b h w e"]) -> Float[Array, "b H W d"]:
        """Returns what the last convolution, `last`, turns into images."""
        return self.decoder(self.post_quant_conv(z.astype(jnp.float32)))


def _codebook_init(key: Key, shape: tuple[int, int]) -> Float[Array, "k e"]:
    limit = 1.0 / shape[0]
    return jax.random.uniform(key, shape, minval=-limit, maxval=limit)


class Encoder(nn.Module):
    """Images -> maps of the resolution of the latents.

    Fields:
      layout: the sizes.
      features: channels of the result.
      dtype: of the computation.
    """

    layout: Layout
    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W d"]:
        """Returns the map."""
        n, dtype = self.layout, self.dtype
        h = Conv3x3(n.base, dtype=dtype, name="conv_in")(x)
        for level, multiplier in enumerate(n.multipliers):
            for k in range(n.blocks):
                name = f"down_{level}_block_{k}"
                h = ResBlock(n.base * multiplier, dtype, name=name)(h)
                if 2**level in n.attention:
                    h = Attention(dtype, name=f"down_{level}_attention_{k}")(h)
            if level < len(n.multipliers) - 1:
                h = Down(dtype, name=f"down_{level}_resample")(h)
        h = Middle(n.has_middle_attention, dtype, name="middle")(h)
        h = nn.swish(Norm("group", dtype=dtype, name="norm_out")(h))
        return Conv3x3(self.features, dtype=dtype, name="conv_out")(h)


class Decoder(nn.Module):
    """Maps of the resolution of the latents -> maps of that of images.

    Fields:
      layout: the sizes.
      dtype: of the computation.
    """

    layout: Layout
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: Float[Array, "b h w d"]) -> Float[Array, "b H W d2"]:
        """Returns the map, in float32."""
        n, dtype = self.layout, self.dtype
        h = Conv3x3(n.base * n.multipliers[-1], dtype=dtype, name="conv_in")(z)
        h = Middle(n.has_middle_attention, dtype, name="middle")(h)
        for level, multiplier in reversed(list(enumerate(n.multipliers))):
            for k in range(n.blocks + 1):
                name = f"up_{level}_block_{k}"
                h = ResBlock(n.base * multiplier, dtype, name=name)(h)
                if 2**level in n.attention:
                    h = Attention(dtype, name=f"up_{level}_attention_{k}")(h)
            if level > 0:
                h = Up(dtype, name=f"up_{level}_resample")(h)
        h = nn.swish(Norm("group", dtype=dtype, name="norm_out")(h))
        return h.astype(jnp.float32)


class Middle(nn.Module):
    """Two residual blocks at the coarsest level, with attention between them."""

    has_attention: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns the map."""
        width = x.shape[-1]
        h = ResBlock(width, self.dtype, name="block_0")(x)
        if self.has_attention:
            h = Attention(self.dtype, name="attention")(h)
        return ResBlock(width, self.dtype, name="block_1")(h)
