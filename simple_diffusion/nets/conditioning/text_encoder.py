"""A small text encoder, trained together with the network that it conditions."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from simple_diffusion.nets import layers, ops


class TextEncoder(nn.Module):
    """Token ids -> features: embeddings, pre-norm transformer blocks, a last norm.

    Source: the text encoder of latent diffusion (arXiv 2112.10752), appendix, with
    heads that share the width and without attention to padding.

    Fields:
      vocabulary: number of ids; 0 is padding.
      length: largest number of tokens: where positions are learned.
      width: of the features.
      depth: number of blocks.
      heads: a divisor of the width.
      attention: implementation, see `ops.attention`.
      dtype: of the computation.
    """

    vocabulary: int
    length: int
    width: int
    depth: int
    heads: int
    attention: ops.Implementation | ops.AttentionFn = "auto"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, ids: Int[Array, "b n"]
    ) -> tuple[Float[Array, "b n d"], Bool[Array, "b n"]]:
        """Returns the features, and True for those that are not padding.

        Args:
          ids: padding comes after the text. An id that is not in the vocabulary
            becomes NaN.

        Raises:
          ValueError: if there are more ids than `length`, or the heads do not divide
            the width.
        """
        n = ids.shape[1]
        if n > self.length:
            raise ValueError(f"{n} tokens exceed length={self.length}")
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} must divide width={self.width}")
        # Their sum has unit variance. What a block adds has about as much: embeddings
        # of 0.02, as in networks whose kernels start as small, would be lost in it,
        # and "left" could not be told from "right".
        init = nn.initializers.normal(0.5**0.5)
        table = self.param("tokens", init, (self.vocabulary, self.width), jnp.float32)
        places = self.param("positions", init, (self.length, self.width), jnp.float32)
        x = jnp.take(table, ids, axis=0, mode="fill") + places[None, :n]
        x = x.astype(self.dtype)
        is_real = ids != 0
        # The end of the text. At least 1: an empty text attends to its first padding,
        # and the mask then hides what comes of it.
        ends = jnp.where(is_real, jnp.arange(1, n + 1)[None], 1).max(1)
        for k in range(self.depth):
            x = self._block(x, ends.astype(jnp.int32), f"block_{k}")
        return layers.Norm("layer", dtype=self.dtype, name="norm")(x), is_real

    def _block(self, x: Array, ends: Array, name: str) -> Array:
        block = EncoderBlock(self.heads, self.attention, self.dtype, name=name)
        return block(x, ends)


class EncoderBlock(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)), four times wider inside."""

    heads: int
    attention: ops.Implementation | ops.AttentionFn = "auto"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], ends: Int[Array, "b"]
    ) -> Float[Array, "b n d"]:
        """Returns features of the same shape; tokens from `ends` on are not read."""
        d = x.shape[-1]
        features = (self.heads, 3, d // self.heads)
        y = layers.Norm("layer", dtype=self.dtype, name="norm_1")(x)
        qkv = layers.Dense(features, dtype=self.dtype, name="qkv")(y)
        q, k, v = jnp.unstack(qkv, axis=-2)  # [b, n, heads, d]
        y = ops.attention(q, k, v, self.attention, ends).reshape(x.shape)
        x = x + layers.Dense(d, dtype=self.dtype, name="out")(y)
        y = layers.Norm("layer", dtype=self.dtype, name="norm_2")(x)
        y = layers.Dense(4 * d, dtype=self.dtype, name="dense_1")(y)
        y = nn.gelu(y, approximate=False)
        return x + layers.Dense(d, dtype=self.dtype, name="dense_2")(y)
