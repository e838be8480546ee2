"""The U-ViT of simple diffusion: a transformer at the bottom of a convolutional U."""

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
from simple_diffusion.nets.transformer import PositionTable, Trunk
from simple_diffusion.nets.unet import ConvBlock, conv_levels

STYLE = Style(qk_norm="layer", position="learned")


class UViT(nn.Module):
    """Convolutional levels with skips around one transformer level without skips.

    A level has as many blocks up as down unless `Level.blocks_up` is set.

    Source: simple diffusion (arXiv 2301.11093), section 3.4 and appendix.

    Fields:
      levels: from the highest resolution to the lowest; the last is of kind
        "transformer", the others "conv".
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
        *conv, trunk = self.levels
        if trunk.kind != "transformer" or any(v.kind != "conv" for v in conv):
            raise ValueError(
                "the levels of a U-ViT must be 'conv', and the last 'transformer', got"
                f" {[v.kind for v in self.levels]}"
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
        extent = grid_size(self.training_size, self.patching, len(conv))

        def bottom(h: Array) -> Array:
            if conv:
                down = layers.Down(trunk.channels, self.dtype, name=f"down_{len(conv)}")
                h = down(h)
            h = PositionTable(self.style, extent, name="position")(h, region)
            h = Trunk(
                trunk,
                trunk.blocks,
                self.style,
                extent,
                train=train,
                remat=self.remat,
                unroll=self.scan_unroll,
                dtype=self.dtype,
                name="trunk",
            )(h, emb, region, context)
            if conv:
                channels = conv[-1].channels
                up = layers.Up(channels, self.dtype, name=f"up_{len(conv) - 1}")
                h = up(h)
            return h

        h = join_image(z_t, cond)
        joined = h.shape[-1] - z_t.shape[-1]
        h = Stem(self.levels[0].channels, *ends, joined, name="stem")(h)
        h = conv_levels(
            h,
            emb,
            region,
            tuple(conv),
            conv_block,
            bottom,
            extra_up=0,
            context=context,
        )
        channels = self.output_channels or z_t.shape[-1]
        return Head(channels, self.style, *ends, name="head")(h)
