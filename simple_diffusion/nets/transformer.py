"""Self-attention on feature maps, and the transformer trunk of the U-ViTs."""

import math
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from simple_diffusion.nets import layers, ops, position
from simple_diffusion.nets.layers import Level, Style
from simple_diffusion.nets.position import Region


class SelfAttention(nn.Module):
    """x + out(attention(norm(x))); the last linear map is zero in a fresh network.

    Fields:
      heads: a divisor of the width.
      style: QK norm, rotary positions, implementation.
      norm: "group", "layer" or "rms".
      norm_bias: whether the norm has a bias.
      extent: height and width of the training grid in tokens, for rotary positions;
        None: of the current grid.
      dtype: of the computation.
    """

    heads: int
    style: Style
    norm: Literal["group", "layer", "rms"] = "group"
    norm_bias: bool = True
    extent: tuple[int, int] | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], region: Region | None = None
    ) -> Float[Array, "b h w c"]:
        """Returns a map of the same shape.

        Args:
          x: the map.
          region: of the map in the full image; None: the map is the full image.

        Raises:
          ValueError: if the heads do not divide the width.
        """
        b, h, w, c = x.shape
        if c % self.heads:
            raise ValueError(f"heads={self.heads} must divide channels={c}")
        # Heads first: a split over devices by heads is then a split into blocks.
        features = (self.heads, 3, c // self.heads)
        y = layers.Norm(self.norm, self.norm_bias, self.dtype, name="norm")(x)
        qkv = layers.Dense(features, dtype=self.dtype, name="qkv")(y)
        q, k, v = jnp.unstack(qkv, axis=-2)  # [b, h, w, heads, d]
        if self.style.qk_norm == "l2":
            q, k = self._cosines(q, k)
        elif self.style.qk_norm != "none":
            q = self._qk_norm("norm_q")(q)
            k = self._qk_norm("norm_k")(k)
        if self.style.position == "rope":
            rows, columns = _token_coordinates(region, (h, w), self.extent)
            q, k = (
                position.rope_2d(y, rows, columns, self.style.rope_fastest)
                for y in (q, k)
            )
        q, k, v = (y.reshape(b, h * w, self.heads, c // self.heads) for y in (q, k, v))
        y = ops.attention(q, k, v, self.style.attention).reshape(b, h, w, c)
        init = nn.initializers.zeros
        return x + layers.Dense(c, kernel_init=init, dtype=self.dtype, name="out")(y)

    def _qk_norm(self, name: str) -> layers.Norm:
        kind = "rms" if self.style.qk_norm == "rms" else "layer"
        return layers.Norm(kind, dtype=self.dtype, name=name)

    def _cosines(self, q: Array, k: Array) -> tuple[Array, Array]:
        """Returns q and k whose logits are their cosine times a learned scale."""
        # L² - L vanishes for a single token, whose attention is 1 in any case.
        tokens = max(2, q.shape[1] * q.shape[2])
        start = nn.initializers.constant(math.log2(tokens**2 - tokens))
        scale = self.param("qk_scale", start, (), jnp.float32)
        # Attention divides the logits by the root of the features.
        scale = scale * math.sqrt(q.shape[-1])
        q, k = (_unit(y.astype(jnp.float32)) for y in (q, k))
        return (scale * q).astype(self.dtype), k.astype(self.dtype)


def _unit(x: Array) -> Array:
    # By the squares: the gradient of the length itself is NaN at 0.
    square = jnp.square(x).sum(-1, keepdims=True)
    return x * lax.rsqrt(square + 1e-12)


def _token_coordinates(
    region: Region | None, size: tuple[int, int], extent: tuple[int, int] | None
) -> tuple[Array, Array]:
    """Returns the coordinates of rows and columns of tokens, [n] or [b, n].

    Args:
      region: of the map in the full image; None: the map is the full image.
      size: of the map.
      extent: of the full image in tokens; None: derived from the map and its region.
    """
    if region is None:
        rows, columns = (
            position.centres(n, e) for n, e in zip(size, extent or size, strict=True)
        )
        return rows, columns
    rows, columns = position.grid(region.box, size)
    if extent is not None:
        return rows * extent[0], columns * extent[1]
    cells = jnp.array([size], jnp.float32) / (region.box[:, 2:] - region.box[:, :2])
    return rows * cells[:, :1], columns * cells[:, 1:]


class Mlp(nn.Module):
    """x + Dense(dropout(FiLM(activation(Dense(norm(x)))))), four times wider inside.

    Source: simple diffusion (arXiv 2301.11093), appendix, U-ViT. The default FiLM acts
    on the hidden units, as in most ports of the paper.

    Fields:
      style: norm, activation and position of the FiLM.
      dropout: the current rate, 0 outside training.
      dtype: of the computation.
    """

    style: Style
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], emb: Float[Array, "b d"]
    ) -> Float[Array, "b h w c"]:
        """Returns a map of the same shape."""
        c, film_at = x.shape[-1], self.style.film
        film = None
        if film_at != "none":
            width = c if film_at == "input" else 4 * c
            film = layers.FilmDense(width, self.dtype, name="film")(emb)
        norm = layers.Norm(self.style.token_norm, False, self.dtype, name="norm")
        h = norm(x, film if film_at == "input" else None)
        h = layers.Dense(4 * c, dtype=self.dtype, name="dense_1")(h)
        if film_at == "before_activation":
            h = _modulate(h, film)
        h = layers.ACTIVATIONS[self.style.activation](h)
        if film_at == "hidden":
            h = _modulate(h, film)
        h = nn.Dropout(self.dropout, deterministic=False)(h)
        init = nn.initializers.zeros
        return x + layers.Dense(c, kernel_init=init, dtype=self.dtype, name="dense_2")(
            h
        )


def _modulate(h: Array, film: layers.Film | None) -> Array:
    assert film is not None
    scale, shift = (f[:, None, None] for f in film)
    return h * (1 + scale) + shift


class Block(nn.Module):
    """A transformer block: `Mlp`, then `SelfAttention`; fields as there."""

    heads: int
    style: Style
    dropout: float = 0.0
    extent: tuple[int, int] | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        emb: Float[Array, "b d"],
        region: Region | None = None,
    ) -> Float[Array, "b h w c"]:
        """Returns a map of the same shape."""
        x = Mlp(self.style, self.dropout, self.dtype, name="mlp")(x, emb)
        attention = SelfAttention(
            self.heads,
            self.style,
            norm=self.style.token_norm,
            norm_bias=False,
            extent=self.extent,
            dtype=self.dtype,
            name="attention",
        )
        return attention(x, region)


class PositionTable(nn.Module):
    """x + the position embedding of each token; `Style.position` selects its kind.

    Fields:
      style: "learned" starts at a standard deviation of 0.01 at the training grid and
        is resized for other grids; "sincos" is fixed. With `Style.bands` a linear map
        of the Fourier features of the position is added, which suits any grid.
      extent: height and width of the training grid in tokens.
    """

    style: Style
    extent: tuple[int, int]

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], region: Region | None = None
    ) -> Float[Array, "b h w c"]:
        """Returns a map of the same shape."""
        size, c = (x.shape[1], x.shape[2]), x.shape[3]
        if self.style.position == "learned":
            init = nn.initializers.normal(0.01)
            table = self.param("table", init, (*self.extent, c), jnp.float32)
            table = position.resize_table(table, size)
        elif self.style.position == "sincos":
            rows, columns = (
                position.centres(n, e) for n, e in zip(size, self.extent, strict=True)
            )
            table = position.sincos_2d(rows, columns, c)
        else:
            table = None
        if table is not None:
            x = x + table[None].astype(x.dtype)
        if self.style.bands and region is not None:
            rows, columns = position.fourier(region, size, self.style.bands)
            by_row = layers.Dense(c, dtype=x.dtype, name="rows")(rows)
            by_column = layers.Dense(c, dtype=x.dtype, name="columns")(columns)
            x = x + by_row[:, :, None] + by_column[:, None]
        return x


class Trunk(nn.Module):
    """Identical transformer blocks; parameters are stacked over the blocks on axis 0.

    Fields:
      level: heads and dropout of the blocks.
      depth: number of blocks.
      style: see `Style`.
      extent: see `SelfAttention`.
      train: whether dropout is on.
      remat: per block, see `layers.remat`.
      unroll: blocks per iteration of the scan. 1 compiles in constant time; `depth`
        gives straight-line code, faster on CPU. The parameters are the same.
      dtype: of the computation.
    """

    level: Level
    depth: int
    style: Style
    extent: tuple[int, int]
    train: bool = False
    remat: str | None = None
    unroll: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        emb: Float[Array, "b d"],
        region: Region | None = None,
    ) -> Float[Array, "b h w c"]:
        """Returns a map of the same shape."""
        block = layers.remat(Block, self.remat, in_scan=self.unroll == 1)(
            self.level.heads,
            self.style,
            self.level.dropout if self.train else 0.0,
            self.extent,
            self.dtype,
            name="blocks",
        )
        scan = nn.scan(
            lambda block, x, _: (block(x, emb, region), None),
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            length=self.depth,
            unroll=self.unroll,
        )
        return scan(block, x, None)[0]
