"""The U-ViT of simple diffusion: a transformer at the bottom of a convolutional U."""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from simple_diffusion.core.types import Conditioning
from simple_diffusion.nets import layers, position
from simple_diffusion.nets.conditioning.ports import Ports
from simple_diffusion.nets.conditioning.specs import Spec
from simple_diffusion.nets.conditions import Embedding, join_image
from simple_diffusion.nets.layers import Level, Style
from simple_diffusion.nets.patching import Head, Stem, check_size, grid_size
from simple_diffusion.nets.position import Region
from simple_diffusion.nets.transformer import (
    Block,
    Context,
    Inputs,
    PositionTable,
    Trunk,
)
from simple_diffusion.nets.unet import ConvBlock, conv_levels

STYLE = Style(qk_norm="layer", position="learned")


class UViT(nn.Module):
    """Convolutional levels with skips around one transformer level without skips.

    A level has as many blocks up as down unless `Level.blocks_up` is set. Levels above
    the last may be transformers as well, with skips, as in the text-to-image model of
    the paper at 32x32.

    Source: simple diffusion (arXiv 2301.11093), section 3.4 and appendix.

    Fields:
      levels: from the highest resolution to the lowest: "conv", then "transformer",
        which at least the last is.
      embedding: logsnr and label -> vector.
      training_size: height and width of the images it is trained on, in pixels: where
        the position table is learned. Other sizes resize the table.
      style: see `Style`.
      patching: first and last operation, see `patching`.
      normalise_bands: see `patching.Stem`.
      output_channels: None means as many as the input.
      dtype: of the computation; parameters, norm statistics, softmax and the embedding
        are float32 always.
      remat: per block, None, "full", "dots" or "dots_no_batch", see `layers.remat`.
      scan_unroll: see `transformer.Trunk`.
      conditions: what `Conditioning.fields` holds.
    """

    levels: tuple[Level, ...]
    embedding: Embedding
    training_size: tuple[int, int]
    style: Style = STYLE
    patching: str = "none"
    normalise_bands: bool = False
    output_channels: int | None = None
    dtype: Any = jnp.float32
    remat: str | None = None
    scan_unroll: int = 1
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
          ValueError: if the levels cannot divide the image, naming the multiple, or
            if their kinds are not as above.
        """
        conv = [level for level in self.levels if level.kind == "conv"]
        kinds = [level.kind for level in self.levels]
        if kinds != sorted(kinds) or kinds[-1] != "transformer":
            raise ValueError(
                "the levels of a U-ViT must be 'conv', and the last 'transformer' (or"
                f" several of the last), got {kinds}"
            )
        check_size(self.training_size, self.patching, len(self.levels))
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
        inputs = Inputs(emb, region, context)
        h = join_image(z_t, cond)
        joined = h.shape[-1] - z_t.shape[-1]
        h = Stem(self.levels[0].channels, *ends, joined, name="stem")(h)
        h = conv_levels(
            h,
            emb,
            region,
            tuple(conv),
            conv_block,
            partial(self._transformers, inputs=inputs, i=len(conv), train=train),
            extra_up=0,
            context=context,
        )
        channels = self.output_channels or z_t.shape[-1]
        return Head(channels, self.style, *ends, name="head")(h)

    def _transformers(self, h: Array, inputs: Inputs, i: int, train: bool) -> Array:
        """Returns the features of level i - 1 after level i and those below."""
        level, is_last = self.levels[i], i + 1 == len(self.levels)
        extent = grid_size(self.training_size, self.patching, i)
        if i:
            h = layers.Down(level.channels, self.dtype, name=f"down_{i}")(h)
        name = "position" if is_last else f"position_{i}"
        h = PositionTable(self.style, extent, name=name)(h, inputs.region)
        if is_last:
            trunk = Trunk(
                level,
                level.blocks,
                self.style,
                extent,
                train=train,
                remat=self.remat,
                unroll=self.scan_unroll,
                dtype=self.dtype,
                name="trunk",
            )
            h = trunk(h, *inputs)
        else:
            h = self._with_skips(h, inputs, i, train)
        if i:
            channels = self.levels[i - 1].channels
            h = layers.Up(channels, self.dtype, name=f"up_{i - 1}")(h)
        return h

    def _with_skips(self, h: Array, inputs: Inputs, i: int, train: bool) -> Array:
        """Returns the features after the blocks of level i and the levels below it."""
        level = self.levels[i]
        block = partial(
            layers.remat(SkipBlock, self.remat),
            level,
            self.style,
            grid_size(self.training_size, self.patching, i),
            train,
            self.dtype,
        )
        skips = [h]
        for j in range(level.blocks):
            h = block(name=f"down_{i}_{j}")(h, None, *inputs)
            skips.append(h)
        h = self._transformers(h, inputs, i + 1, train)
        for j in range(level.blocks if level.blocks_up is None else level.blocks_up):
            skip = skips.pop() if skips else None
            h = block(name=f"up_{i}_{j}")(h, skip, *inputs)
        return h


class SkipBlock(nn.Module):
    """A transformer block of a level with skips.

    A skip is merged first, as `Style.skip` says: (x + skip) / √2, x + skip, or a linear
    map of both. How the paper merges it here is not published.

    Fields:
      level: heads and dropout.
      style: see `Style`.
      extent: see `transformer.SelfAttention`.
      train: whether dropout is on.
      dtype: of the computation.
    """

    level: Level
    style: Style
    extent: tuple[int, int]
    train: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        skip: Float[Array, "b h w c"] | None,
        emb: Float[Array, "b d"],
        region: Region | None = None,
        context: Context | None = None,
    ) -> Float[Array, "b h w c"]:
        """Returns a map of the same shape."""
        if skip is not None:
            match self.style.skip:
                case "concat":
                    merge = layers.Dense(x.shape[-1], dtype=self.dtype, name="merge")
                    x = merge(jnp.concatenate([x, skip], axis=-1))
                case "add":
                    x = x + skip
                case _:
                    x = (x + skip) * math.sqrt(0.5)
        dropout = self.level.dropout if self.train else 0.0
        block = Block(
            *(self.level.heads, self.style, dropout, self.extent, self.dtype),
            name="block",
        )
        return block(x, emb, region, context)
