"""Attention on feature maps, and the transformer trunk of the U-ViTs."""

import math
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from simple_diffusion.nets import layers, ops, position
from simple_diffusion.nets.layers import Level, Style
from simple_diffusion.nets.position import Region


@flax.struct.dataclass
class Context:
    """What cross-attention reads, the same in all blocks.

    tokens: those that count first, then padding.
    lengths: number of tokens of each example that count; may be 0.
    """

    tokens: Float[Array, "b n d"]
    lengths: Int[Array, "b"]


class Inputs(NamedTuple):
    """What every block gets besides its feature map."""

    emb: Float[Array, "b d"]
    region: Region
    context: Context | None


def pack_tokens(tokens: Float[Array, "b n d"], mask: Bool[Array, "b n"]) -> Context:
    """Returns the tokens in their order, but those outside the mask last and zero.

    Args:
      tokens: in any order; their features say where they belong.
      mask: True for tokens that count.
    """
    # Zero, so that a NaN there stays away from values and gradients.
    tokens = jnp.where(mask[..., None], tokens, 0)
    order = jnp.argsort(~mask, axis=1, stable=True)
    tokens = jnp.take_along_axis(tokens, order[..., None], axis=1)
    return Context(tokens, mask.sum(axis=1, dtype=jnp.int32))


class _Attention(nn.Module):
    """Fields and query-key norm that both kinds of attention have."""

    heads: int
    style: Style
    norm: Literal["group", "layer", "rms"] = "group"
    norm_bias: bool = True
    dtype: Any = jnp.float32

    def _head_width(self, channels: int) -> int:
        if channels % self.heads:
            raise ValueError(f"heads={self.heads} must divide channels={channels}")
        return channels // self.heads

    def _normalise(self, q: Array, k: Array) -> tuple[Array, Array]:
        """Returns queries and keys, [b, *n, heads, d] each, after their norm."""
        match self.style.qk_norm:
            case "none":
                return q, k
            case "l2":
                return self._cosines(q, k)
            case kind:
                norm_q = layers.Norm(kind, dtype=self.dtype, name="norm_q")
                norm_k = layers.Norm(kind, dtype=self.dtype, name="norm_k")
                return norm_q(q), norm_k(k)

    def _cosines(self, q: Array, k: Array) -> tuple[Array, Array]:
        """Returns q and k whose logits are their cosine times a learned scale."""
        # L² - L vanishes for a single token, whose attention is 1 in any case.
        tokens = max(2, math.prod(k.shape[1:-2]))
        start = nn.initializers.constant(math.log2(tokens**2 - tokens))
        scale = self.param("qk_scale", start, (), jnp.float32)
        # Attention divides the logits by the root of the features.
        scale = scale * math.sqrt(q.shape[-1])
        q, k = (_unit(y.astype(jnp.float32)) for y in (q, k))
        return (scale * q).astype(self.dtype), k.astype(self.dtype)


class SelfAttention(_Attention):
    """x + out(attention(norm(x))); the last linear map is zero in a fresh network.

    Fields:
      heads: a divisor of the width.
      style: QK norm, rotary positions, implementation.
      norm: "group", "layer" or "rms".
      norm_bias: whether the norm has a bias.
      dtype: of the computation.
      extent: height and width of the training grid in tokens, for rotary positions;
        None: of the current grid.
    """

    extent: tuple[int, int] | None = None

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
        width = self._head_width(c)
        # Heads first: a split over devices by heads is then a split into blocks.
        features = (self.heads, 3, width)
        y = layers.Norm(self.norm, self.norm_bias, self.dtype, name="norm")(x)
        qkv = layers.Dense(features, dtype=self.dtype, name="qkv")(y)
        q, k, v = jnp.unstack(qkv, axis=-2)  # [b, h, w, heads, d]
        q, k = self._normalise(q, k)
        if self.style.position == "rope":
            rows, columns = _token_coordinates(region, (h, w), self.extent)
            q, k = (
                position.rope_2d(y, rows, columns, self.style.rope_fastest)
                for y in (q, k)
            )
        q, k, v = (y.reshape(b, h * w, self.heads, width) for y in (q, k, v))
        y = ops.attention(q, k, v, self.style.attention).reshape(b, h, w, c)
        init = nn.initializers.zeros
        return x + layers.Dense(c, kernel_init=init, dtype=self.dtype, name="out")(y)


class CrossAttention(_Attention):
    """x + out(attention(norm(x), tokens)); the last linear map starts at zero.

    Every pixel attends to the tokens of its example and to one learned null token,
    which alone is left where no token counts. Tokens carry their positions in their
    features, so there are no rotary positions. Source: Imagen (arXiv 2205.11487),
    appendix on the architecture; simple diffusion (arXiv 2301.11093), text to image.

    Fields:
      heads: a divisor of the width.
      style: QK norm, implementation.
      norm: "group", "layer" or "rms".
      norm_bias: whether the norm has a bias.
      dtype: of the computation.
    """

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], context: Context
    ) -> Float[Array, "b h w c"]:
        """Returns a map of the same shape.

        Raises:
          ValueError: if the heads do not divide the width.
        """
        b, h, w, c = x.shape
        width = self._head_width(c)
        y = layers.Norm(self.norm, self.norm_bias, self.dtype, name="norm")(x)
        q = layers.Dense((self.heads, width), dtype=self.dtype, name="q")(y)
        q = q.reshape(b, h * w, self.heads, width)
        features = (self.heads, 2, width)
        kv = layers.Dense(features, dtype=self.dtype, name="kv")(context.tokens)
        # Of the scale of keys and values of tokens whose features have unit variance.
        null = self.param("null", nn.initializers.normal(1.0), features, jnp.float32)
        null = jnp.broadcast_to(null.astype(self.dtype)[None, None], (b, 1, *features))
        k, v = jnp.unstack(jnp.concatenate([null, kv], axis=1), axis=-2)
        q, k = self._normalise(q, k)
        y = ops.attention(q, k, v, self.style.attention, context.lengths + 1)
        dense = layers.Dense(
            c, kernel_init=nn.initializers.zeros, dtype=self.dtype, name="out"
        )
        return x + dense(y.reshape(b, h, w, c))


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
    """`Mlp`, `SelfAttention` and, for tokens, `CrossAttention`; fields as there."""

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
        context: Context | None = None,
    ) -> Float[Array, "b h w c"]:
        """Returns a map of the same shape."""
        x = Mlp(self.style, self.dropout, self.dtype, name="mlp")(x, emb)
        common = (self.heads, self.style, self.style.token_norm, False, self.dtype)
        x = SelfAttention(*common, extent=self.extent, name="attention")(x, region)
        if context is not None:
            x = CrossAttention(*common, name="cross_attention")(x, context)
        return x


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
        context: Context | None = None,
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
            lambda block, x, _: (block(x, emb, region, context), None),
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            length=self.depth,
            unroll=self.unroll,
        )
        return scan(block, x, None)[0]
