"""The U-Net of latent diffusion and Stable Diffusion, as a pure function.

Source: Rombach et al., arXiv:2112.10752, appendix, after ADM (arXiv:2105.05233).
`LAYOUTS` lists the published sizes. Shapes: b batch, h height, w width, c channels,
n tokens, d features.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from simple_diffusion.nets import layers, ops
from simple_diffusion.nets.convolution import Conv3x3
from simple_diffusion.nets.latent_unet.blocks import (
    GROUPS,
    Attention,
    ResBlock,
    SpatialTransformer,
    group_norm,
)
from simple_diffusion.nets.layers import Dense


@dataclass(frozen=True)
class Layout:
    """Sizes of a U-Net of latent diffusion.

    Fields:
      base: width of the unit.
      multipliers: width of each level in units of `base`, the finest first.
      attention: factors, in cells of the input a cell, of the levels with attention
        after each residual block; the middle always has one.
      heads: of every attention; None: as `head_channels` says.
      head_channels: features of a head, where `heads` is None.
      context: width of the tokens; None: there is plain attention and no transformer.
      depth: blocks of each transformer.
      blocks: residual blocks of a level on the way down; there is one more on the way
        up.
      is_resampled_in_blocks: whether residual blocks change the resolution, else
        convolutions do.
      is_scaled: see `blocks.ResBlock`.
      in_channels: of the input, with what is joined to it.
      out_channels: of the output.
      groups: of the norms.
    """

    base: int
    multipliers: tuple[int, ...]
    attention: tuple[int, ...]
    heads: int | None = None
    head_channels: int | None = None
    context: int | None = None
    depth: int = 1
    blocks: int = 2
    is_resampled_in_blocks: bool = False
    is_scaled: bool = False
    in_channels: int = 4
    out_channels: int = 4
    groups: int = GROUPS

    def __post_init__(self) -> None:
        if (self.heads is None) == (self.head_channels is None):
            raise ValueError("set either heads or head_channels")

    def heads_of(self, channels: int) -> int:
        """Returns the number of heads of an attention of this width."""
        if self.heads is not None:
            return self.heads
        assert self.head_channels is not None
        return channels // self.head_channels


# By the names of the configs in the repository of latent diffusion.
LAYOUTS = {
    "celeba_ffhq_beds": Layout(
        224, (1, 2, 3, 4), (8, 4, 2), head_channels=32, in_channels=3, out_channels=3
    ),
    "churches": Layout(
        *(192, (1, 2, 2, 4, 4), (1, 2, 4, 8)),
        heads=8,
        is_scaled=True,
        is_resampled_in_blocks=True,
    ),
    "cin256": Layout(256, (1, 2, 4), (4, 2, 1), head_channels=32, context=512),
    "cin256_v2": Layout(
        *(192, (1, 2, 3, 5), (8, 4, 2)),
        heads=1,
        context=512,
        in_channels=3,
        out_channels=3,
    ),
    "txt2img_1p4b": Layout(320, (1, 2, 4, 4), (4, 2, 1), heads=8, context=1280),
    "sd1": Layout(320, (1, 2, 4, 4), (4, 2, 1), heads=8, context=768),
    "sd15_inpaint": Layout(
        320, (1, 2, 4, 4), (4, 2, 1), heads=8, context=768, in_channels=9
    ),
    "sd2": Layout(320, (1, 2, 4, 4), (4, 2, 1), head_channels=64, context=1024),
    "bsr_sr": Layout(
        160, (1, 2, 2, 4), (16, 8), head_channels=32, in_channels=6, out_channels=3
    ),
    "inpainting_big": Layout(
        *(256, (1, 2, 3, 4), (8, 4, 2)),
        heads=8,
        is_resampled_in_blocks=True,
        in_channels=7,
        out_channels=3,
    ),
    "layout2img_openimages": Layout(
        *(128, (1, 2, 3, 4), (8, 4, 2)),
        head_channels=32,
        context=512,
        depth=3,
        in_channels=3,
        out_channels=3,
    ),
    "semantic_landscapes": Layout(
        128, (1, 4, 8), (32, 16, 8), heads=8, in_channels=6, out_channels=3
    ),
}


class LatentUNet(nn.Module):
    """(z_t, time, tokens) -> prediction, zero in a fresh network.

    Fields:
      layout: the sizes.
      dropout: rate inside of residual blocks, in training.
      attention: implementation, see `ops.attention`.
      dtype: of the computation; parameters and norm statistics are float32.
      remat: per block, None, "full", "dots" or "dots_no_batch", see `layers.remat`.
    """

    layout: Layout
    dropout: float = 0.0
    attention: ops.Implementation | ops.AttentionFn = "auto"
    dtype: Any = jnp.float32
    remat: str | None = None

    @nn.compact
    def __call__(
        self,
        z_t: Float[Array, "b h w c"],
        time: Float[Array, "b"],
        tokens: Float[Array, "b n d"] | None = None,
        train: bool = False,
    ) -> Float[Array, "b h w k"]:
        """Returns the prediction, in float32.

        Args:
          z_t: input, with maps that are joined to it by channels.
          time: step of the discrete process, from 0 to 999; may be a fraction.
          tokens: all of them are attended to, padding included.
          train: whether dropout is on.

        Raises:
          ValueError: if the levels cannot halve the input, if it has other channels, or
            if tokens are missing or superfluous.
        """
        n, dtype = self.layout, self.dtype
        self._check(z_t, tokens)
        emb = sinusoid(time, n.base)
        for k in (1, 2):
            emb = Dense(4 * n.base, name=f"embedding_{k}")(emb)
            emb = nn.swish(emb) if k == 1 else emb
        block = partial(
            layers.remat(ResBlock, self.remat),
            dropout=self.dropout if train else 0.0,
            is_scaled=n.is_scaled,
            groups=n.groups,
            dtype=dtype,
        )

        def attend(h: Array, name: str) -> Array:
            heads, common = n.heads_of(h.shape[-1]), (n.groups, self.attention, dtype)
            if n.context is None:
                plain = layers.remat(Attention, self.remat)(heads, *common, name=name)
                return plain(h)
            transformer = layers.remat(SpatialTransformer, self.remat)
            return transformer(heads, n.depth, *common, name=name)(h, tokens)

        h = Conv3x3(n.base, dtype=dtype, name="conv_in")(z_t)
        skips, last = [h], len(n.multipliers) - 1
        for level, multiplier in enumerate(n.multipliers):
            for k in range(n.blocks):
                h = block(n.base * multiplier, name=f"down_{level}_block_{k}")(h, emb)
                if 2**level in n.attention:
                    h = attend(h, f"down_{level}_attention_{k}")
                skips.append(h)
            if level < last:
                h = self._resample(h, emb, "down", block, f"down_{level}_resample")
                skips.append(h)
        h = block(h.shape[-1], name="middle_block_0")(h, emb)
        h = attend(h, "middle_attention")
        h = block(h.shape[-1], name="middle_block_1")(h, emb)
        for level, multiplier in reversed(list(enumerate(n.multipliers))):
            for k in range(n.blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = block(n.base * multiplier, name=f"up_{level}_block_{k}")(h, emb)
                if 2**level in n.attention:
                    h = attend(h, f"up_{level}_attention_{k}")
            if level > 0:
                h = self._resample(h, emb, "up", block, f"up_{level}_resample")
        h = nn.swish(group_norm("norm_out", n.groups, dtype)(h))
        out = Conv3x3(n.out_channels, zero=True, dtype=dtype, name="conv_out")(h)
        return out.astype(jnp.float32)

    def _resample(self, h: Array, emb: Array, way: str, block: Any, name: str) -> Array:
        if self.layout.is_resampled_in_blocks:
            return block(h.shape[-1], resample=way, name=name)(h, emb)
        channels = h.shape[-1]
        if way == "up":
            conv = Conv3x3(channels, dtype=self.dtype, name=name)
            return conv(ops.upsample_nearest(h))
        # Other than in the autoencoder, all sides are padded.
        return nn.Conv(channels, (3, 3), 2, 1, dtype=self.dtype, name=name)(h)

    def _check(self, z_t: Array, tokens: Array | None) -> None:
        n = self.layout
        multiple = 2 ** (len(n.multipliers) - 1)
        h, w, c = z_t.shape[1:]
        if h % multiple or w % multiple:
            raise ValueError(
                f"an input of {h}x{w} cells: both sides must be multiples of {multiple}"
            )
        if c != n.in_channels:
            raise ValueError(f"an input of {c} channels, not {n.in_channels}")
        if tokens is not None and n.context is None:
            raise ValueError("a network without cross-attention got tokens")


def sinusoid(time: Float[Array, "b"], channels: int) -> Float[Array, "b {channels}"]:
    """Returns cosines, then sines of the time at wavelengths from 2π to 2π 10⁴."""
    half = channels // 2
    frequency = 10000.0 ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = time.astype(jnp.float32)[:, None] * frequency[None]
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
