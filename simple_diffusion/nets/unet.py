"""The U-Net of simple diffusion: residual blocks with skips at every level."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from simple_diffusion.core.types import Conditioning
from simple_diffusion.nets import layers, position, transformer
from simple_diffusion.nets.conditioning.ports import Ports
from simple_diffusion.nets.conditioning.specs import Spec
from simple_diffusion.nets.conditions import Embedding, join_image
from simple_diffusion.nets.layers import Level, Style
from simple_diffusion.nets.patching import Head, Stem, check_size
from simple_diffusion.nets.position import Region
from simple_diffusion.nets.transformer import Context

Resampling = Literal["linear", "residual"]


class UNet(nn.Module):
    """Levels of residual blocks, down and up, with attention where a level asks for it.

    A level has one more block on the way up than down unless `Level.blocks_up` is set.
    Source: simple diffusion (arXiv 2301.11093), figure of the U-Net.

    Fields:
      levels: from the highest resolution to the lowest; all of kind "conv".
      embedding: logsnr and label -> vector.
      style: see `Style`.
      patching: first and last operation, see `patching`.
      normalise_bands: see `patching.Stem`.
      output_channels: None means as many as the input.
      dtype: of the computation; parameters, norm statistics, softmax and the embedding
        are float32 always.
      remat: per block, None, "full", "dots" or "dots_no_batch", see `layers.remat`.
      resampling: between levels, see `conv_levels`.
      conditions: what `Conditioning.fields` holds.
    """

    levels: tuple[Level, ...]
    embedding: Embedding
    style: Style = Style()
    patching: str = "none"
    normalise_bands: bool = False
    output_channels: int | None = None
    dtype: Any = jnp.float32
    remat: str | None = None
    resampling: Resampling = "linear"
    conditions: tuple[Spec, ...] = ()

    @nn.compact
    def __call__(
        self,
        z_t: Float[Array, "b h w c"],
        logsnr: Float[Array, "b"],
        cond: Conditioning,
        train: bool = False,
    ) -> Float[Array, "b h w d"]:
        """Returns the prediction, float32, zero in a fresh network.

        Raises:
          ValueError: if the levels cannot divide the image, naming the multiple, if a
            level is not convolutional, or if the resampling does not fit the skips.
        """
        if any(level.kind != "conv" for level in self.levels):
            raise ValueError("all levels of a U-Net must have kind='conv'")
        if self.style.position not in ("rope", "none"):
            raise ValueError(
                f"position={self.style.position!r} needs a transformer level;"
                " a U-Net has 'rope' or 'none'"
            )
        if self.resampling == "residual" and self.style.skip != "concat":
            raise ValueError(
                "resampling='residual' gives skips of the width of another level: it"
                f" needs skip='concat', not {self.style.skip!r}"
            )
        check_size(z_t.shape[1:3], self.patching, len(self.levels))
        region = position.region_of(cond, len(z_t), (z_t.shape[1], z_t.shape[2]))
        width = self.embedding.channels
        ports = Ports(self.conditions, self.style, width, self.dtype, name="conditions")
        cond, context = ports(cond, z_t)
        emb = self.embedding(logsnr, cond, region.full_size)
        ends = (self.patching, self.normalise_bands, self.dtype)
        conv_block = partial(
            layers.remat(ConvBlock, self.remat),
            style=self.style,
            train=train,
            dtype=self.dtype,
        )
        deepest = self.levels[-1]

        def middle(h: Array) -> Array:
            first = conv_block(deepest, attention=True, name="middle_1")
            second = conv_block(deepest, attention=False, name="middle_2")
            h = first(h, emb, None, region, context)
            return second(h, emb, None, region)

        h = join_image(z_t, cond)
        joined = h.shape[-1] - z_t.shape[-1]
        h = Stem(self.levels[0].channels, *ends, joined, name="stem")(h)
        h = conv_levels(
            h,
            emb,
            region,
            self.levels,
            conv_block,
            middle,
            extra_up=1,
            resampling=self.resampling,
            context=context,
        )
        channels = self.output_channels or z_t.shape[-1]
        return Head(channels, self.style, *ends, name="head")(h)


class ConvBlock(nn.Module):
    """A residual block, followed by attention if its level asks for it.

    Where there is self-attention, cross-attention to the tokens, if any, follows.

    Fields:
      level: width, heads, dropout.
      style: see `Style`.
      train: whether dropout is on.
      attention: None takes the setting of the level.
      dtype: of the computation.
      resample: see `layers.ResBlock`.
    """

    level: Level
    style: Style
    train: bool = False
    attention: bool | None = None
    dtype: Any = jnp.float32
    resample: Literal["down", "up"] | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        emb: Float[Array, "b d"],
        skip: Float[Array, "b h w s"] | None = None,
        region: Region | None = None,
        context: Context | None = None,
    ) -> Array:
        """Returns [b, h, w, level.channels], or h and w halved or doubled."""
        level, dtype = self.level, self.dtype
        dropout = level.dropout if self.train else 0.0
        block = layers.ResBlock(
            level.channels,
            self.style,
            dropout,
            level.safa,
            dtype,
            self.resample,
            name="res",
        )
        x = block(x, emb, skip, region)
        if level.attention if self.attention is None else self.attention:
            norm = self.style.conv_norm
            attend = transformer.SelfAttention(
                level.heads, self.style, norm, dtype=dtype, name="attention"
            )
            x = attend(x, region)
            if context is not None:
                attend = transformer.CrossAttention(
                    level.heads, self.style, norm, dtype=dtype, name="cross_attention"
                )
                x = attend(x, context)
        return x


def conv_levels(
    h: Float[Array, "b h w c"],
    emb: Float[Array, "b d"],
    region: Region,
    levels: tuple[Level, ...],
    conv_block: Callable[..., nn.Module],
    bottom: Callable[[Array], Array],
    extra_up: int,
    number: int = 0,
    resampling: Resampling = "linear",
    context: Context | None = None,
) -> Array:
    """Returns the features after the levels on the way down, the bottom, and back up.

    The input of a level and the outputs of its blocks on the way down are the skips of
    the blocks on the way up, in reverse order. Additional blocks have no skip.

    With "linear" resampling the map is averaged or repeated, with a 1x1 convolution to
    the width of the new level. With "residual" a residual block does it (see
    `layers.ResBlock`), which has no attention and the width and dropout of the level
    that the map comes from.

    Args:
      h: input, of the width of the first level.
      emb: modulates every block.
      region: of the input in the full image.
      levels: the levels that remain, the highest resolution first.
      conv_block: makes a block from (level, name=).
      bottom: applied below the blocks of the lowest level.
      extra_up: additional blocks on the way up, for levels without `blocks_up`.
      number: of the first level, for the names of the modules.
      resampling: between levels.
      context: of cross-attention.
    """
    if not levels:
        return bottom(h)
    level, below = levels[0], levels[1:]
    skips = [h]
    for j in range(level.blocks):
        down = conv_block(level, name=f"down_{number}_{j}")
        h = down(h, emb, None, region, context)
        skips.append(h)
    if below and resampling == "residual":
        down = conv_block(
            level, attention=False, resample="down", name=f"down_{number + 1}"
        )
        h = down(h, emb, None, region)
    elif below:
        h = layers.Down(below[0].channels, h.dtype, name=f"down_{number + 1}")(h)
    h = conv_levels(
        h,
        emb,
        region,
        below,
        conv_block,
        bottom,
        extra_up,
        number + 1,
        resampling,
        context,
    )
    if below and resampling == "residual":
        up = conv_block(below[0], attention=False, resample="up", name=f"up_{number}")
        h = up(h, emb, None, region)
    elif below:
        h = layers.Up(level.channels, h.dtype, name=f"up_{number}")(h)
    blocks_up = level.blocks + extra_up if level.blocks_up is None else level.blocks_up
    for j in range(blocks_up):
        skip = skips.pop() if skips else None
        up = conv_block(level, name=f"up_{number}_{j}")
        h = up(h, emb, skip, region, context)
    return h
