"""Blocks of the U-Net of latent diffusion: residual blocks and transformers.

Source: ADM (arXiv:2105.05233) and latent diffusion (arXiv:2112.10752), appendix; where
the paper and the published weights differ, as the weights need it: in a transformer
block cross-attention comes before the feed-forward layer, and the group norm before a
transformer has another epsilon than the others.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simple_diffusion.nets import layers, ops
from simple_diffusion.nets.convolution import Conv3x3
from simple_diffusion.nets.layers import Dense

GROUPS = 32


def group_norm(
    name: str, groups: int, dtype: Any, epsilon: float = 1e-5
) -> layers.Norm:
    """Returns a group norm with the epsilon of ADM, or another one."""
    return layers.Norm("group", dtype=dtype, epsilon=epsilon, groups=groups, name=name)


class ResBlock(nn.Module):
    """Norm, swish and a 3x3 convolution, twice, with the embedding between them.

    Fields:
      channels: width of the result.
      dropout: the current rate.
      is_scaled: whether the embedding scales and shifts the second norm; else it is
        added before it.
      resample: halves ("down") or doubles ("up") the resolution before the first
        convolution, and in the shortcut; None keeps it.
      groups: of the norms.
      dtype: of the computation.
    """

    channels: int
    dropout: float = 0.0
    is_scaled: bool = False
    resample: Literal["down", "up"] | None = None
    groups: int = GROUPS
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], emb: Float[Array, "b d"]
    ) -> Float[Array, "b H W k"]:
        """Returns the map; emb has not passed an activation yet."""
        h = nn.swish(group_norm("norm_1", self.groups, self.dtype)(x))
        if self.resample is not None:
            change = {"down": ops.average_pool, "up": ops.upsample_nearest}
            h, x = change[self.resample](h), change[self.resample](x)
        h = Conv3x3(self.channels, dtype=self.dtype, name="conv_1")(h)
        width = self.channels * (2 if self.is_scaled else 1)
        emb = Dense(width, dtype=self.dtype, name="embedding")(nn.swish(emb))
        second = group_norm("norm_2", self.groups, self.dtype)
        if self.is_scaled:
            scale, shift = jnp.split(emb, 2, axis=-1)
            h = second(h, (scale, shift))
        else:
            h = second(h + emb[:, None, None])
        h = nn.Dropout(self.dropout, deterministic=False)(nn.swish(h))
        h = Conv3x3(self.channels, zero=True, dtype=self.dtype, name="conv_2")(h)
        if x.shape[-1] != self.channels:
            x = Dense(self.channels, dtype=self.dtype, name="shortcut")(x)
        return x + h


class Attention(nn.Module):
    """x + self-attention of the norm of x over all pixels, zero at the start.

    Fields:
      heads: a divisor of the channels.
      groups: of the norm.
      attention: implementation, see `ops.attention`.
      dtype: of the computation.
    """

    heads: int
    groups: int = GROUPS
    attention: ops.Implementation | ops.AttentionFn = "auto"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns the map."""
        b, h, w, c = x.shape
        y = group_norm("norm", self.groups, self.dtype)(x)
        y = y.reshape(b, h * w, c)
        shape = self.heads, c // self.heads
        q, k, v = (
            Dense(shape, dtype=self.dtype, name=name)(y)
            for name in ("query", "key", "value")
        )
        y = ops.attention(q, k, v, self.attention).reshape(x.shape)
        zero = nn.initializers.zeros
        return x + Dense(c, kernel_init=zero, dtype=self.dtype, name="out")(y)


class SpatialTransformer(nn.Module):
    """Transformer blocks over all pixels, between two linear maps of the channels.

    A block is self-attention, cross-attention to the tokens, and a feed-forward layer
    with GEGLU, each with a layer norm before it and a shortcut. Without tokens the
    second attention is self-attention as well.

    Fields:
      heads: a divisor of the channels.
      depth: number of blocks.
      groups: of the norm.
      attention: implementation, see `ops.attention`.
      dtype: of the computation.
    """

    heads: int
    depth: int = 1
    groups: int = GROUPS
    attention: ops.Implementation | ops.AttentionFn = "auto"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], tokens: Float[Array, "b n d"] | None
    ) -> Float[Array, "b h w c"]:
        """Returns the map; it equals x in a fresh network."""
        b, h, w, c = x.shape
        y = group_norm("norm", self.groups, self.dtype, 1e-6)(x)
        y = Dense(c, dtype=self.dtype, name="in")(y).reshape(b, h * w, c)
        for k in range(self.depth):
            block = TransformerBlock(
                self.heads, self.attention, self.dtype, name=f"block_{k}"
            )
            y = block(y, tokens)
        zero = nn.initializers.zeros
        out = Dense(c, kernel_init=zero, dtype=self.dtype, name="out")
        return x + out(y.reshape(x.shape))


class TransformerBlock(nn.Module):
    """One block of a `SpatialTransformer`, which has the same fields."""

    heads: int
    attention: ops.Implementation | ops.AttentionFn = "auto"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b m c"], tokens: Float[Array, "b n d"] | None
    ) -> Float[Array, "b m c"]:
        """Returns the features of the pixels."""
        y = self._norm(1)(x)
        x = x + self._attend("self_attention", y, y)
        y = self._norm(2)(x)
        x = x + self._attend("cross_attention", y, y if tokens is None else tokens)
        c = x.shape[-1]
        y = Dense(8 * c, dtype=self.dtype, name="up")(self._norm(3)(x))
        y, gate = jnp.split(y, 2, axis=-1)
        y = y * jax.nn.gelu(gate, approximate=False)
        return x + Dense(c, dtype=self.dtype, name="down")(y)

    def _norm(self, number: int) -> nn.LayerNorm:
        return nn.LayerNorm(1e-5, dtype=self.dtype, name=f"norm_{number}")

    def _attend(self, name: str, x: Array, context: Array) -> Array:
        return _MultiHead(self.heads, self.attention, self.dtype, name=name)(x, context)


class _MultiHead(nn.Module):
    """Attention whose queries, keys and values have no bias."""

    heads: int
    attention: ops.Implementation | ops.AttentionFn
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "b m c"], context: Float[Array, "b n d"]
    ) -> Float[Array, "b m c"]:
        c = x.shape[-1]
        shape = self.heads, c // self.heads

        def project(name: str, values: Array) -> Array:
            dense = nn.DenseGeneral(shape, use_bias=False, dtype=self.dtype, name=name)
            return dense(values)

        q, k, v = (
            project("query", x),
            project("key", context),
            project("value", context),
        )
        y = ops.attention(q, k, v, self.attention).reshape(x.shape)
        return Dense(c, dtype=self.dtype, name="out")(y)
