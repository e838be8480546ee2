"""The Residual U-ViT of SiD2: one skip per level, around everything below it."""

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
from simple_diffusion.nets.transformer import Inputs, PositionTable, Trunk
from simple_diffusion.nets.unet import ConvBlock
from simple_diffusion.nets.uvit import STYLE


class ResidualUViT(nn.Module):
    """Levels of either kind; each adds only the change that the lower levels made.

    With `before` the features of a level after its blocks on the way down,

        after = down(before);   features = before + up(lower levels(after) - after)

    so that a network whose blocks change nothing is the identity between stem and head.
    The lowest level has blocks on the way down only. Source: Simpler Diffusion / SiD2
    (arXiv 2410.19324), section on the Residual U-ViT.

    Fields:
      levels: from the highest resolution to the lowest, "conv" or "transformer" each;
        as many blocks up as down unless `Level.blocks_up` says otherwise.
      embedding: logsnr and label -> vector.
      training_size: height and width of the images it is trained on, in pixels: where
        the position tables are learned. Other sizes resize the tables.
      style: see `Style`. With film="none" the transformer blocks get no embedding;
        noise level and class then enter through the convolutional levels alone.
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
          ValueError: if the levels cannot divide the image, naming the multiple.
        """
        check_size(self.training_size, self.patching, len(self.levels))
        check_size(z_t.shape[1:3], self.patching, len(self.levels))
        region = position.region_of(cond, len(z_t), (z_t.shape[1], z_t.shape[2]))
        width = self.embedding.channels
        ports = Ports(self.conditions, self.style, width, self.dtype, name="conditions")
        cond, context = ports(cond, z_t)
        emb = self.embedding(logsnr, cond, region.full_size)
        ends = (self.patching, self.normalise_bands, self.dtype)
        h = join_image(z_t, cond)
        joined = h.shape[-1] - z_t.shape[-1]
        h = Stem(self.levels[0].channels, *ends, joined, name="stem")(h)
        h = self._position(h, 0, region)
        h = self._level(h, Inputs(emb, region, context), 0, train)
        channels = self.output_channels or z_t.shape[-1]
        return Head(channels, self.style, *ends, name="head")(h)

    def _level(self, h: Array, inputs: Inputs, i: int, train: bool) -> Array:
        """Returns the features of level i after it and everything below."""
        level = self.levels[i]
        h = self._blocks(h, inputs, i, level.blocks, f"down_{i}", train)
        if i + 1 == len(self.levels):
            return h
        below = self.levels[i + 1].channels
        after = layers.Down(below, self.dtype, name=f"down_{i + 1}")(h)
        # Before the difference: the table is not part of the change by the lower level.
        after = self._position(after, i + 1, inputs.region)
        change = self._level(after, inputs, i + 1, train) - after
        h = h + layers.Up(level.channels, self.dtype, name=f"up_{i}")(change)
        blocks_up = level.blocks if level.blocks_up is None else level.blocks_up
        return self._blocks(h, inputs, i, blocks_up, f"up_{i}", train)

    def _blocks(
        self, h: Array, inputs: Inputs, i: int, n: int, name: str, train: bool
    ) -> Array:
        level, (emb, region, context) = self.levels[i], inputs
        if level.kind == "conv":
            block = partial(layers.remat(ConvBlock, self.remat), level, self.style)
            for j in range(n):
                h = block(train, dtype=self.dtype, name=f"{name}_{j}")(
                    h, emb, None, region, context
                )
            return h
        if not n:
            return h
        trunk = Trunk(
            level,
            n,
            self.style,
            self._grid(i),
            train=train,
            remat=self.remat,
            unroll=self.scan_unroll,
            dtype=self.dtype,
            name=f"{name}_trunk",
        )
        return trunk(h, emb, region, context)

    def _position(self, h: Array, i: int, region: Region) -> Array:
        if self.levels[i].kind == "conv":
            return h
        return PositionTable(self.style, self._grid(i), name=f"position_{i}")(h, region)

    def _grid(self, i: int) -> tuple[int, int]:
        return grid_size(self.training_size, self.patching, i)
