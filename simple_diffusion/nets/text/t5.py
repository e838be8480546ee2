"""The encoder of T5 v1.1, which turns tokens of a caption into features.

A pre-norm transformer with RMS norms, linear maps without bias, a gated GELU in the MLP
and, instead of position embeddings, a learned bias of the attention's logits that
depends on the distance of two tokens; all layers share it. The logits are not divided
by the root of the head size: the initialisation of the published weights has it inside.

Source: Raffel et al., arXiv:1910.10683; v1.1 after Shazeer, arXiv:2002.05202. Parity
with another implementation is tested on random weights.

Shapes: b batch, n tokens, d width, h heads, f features of a head.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


@dataclass(frozen=True)
class Size:
    """Sizes of an encoder.

    Fields:
      width: of a token.
      depth: number of layers.
      heads: per layer.
      mlp: hidden units of the MLP.
      head: features of a head; heads * head need not be the width.
      vocabulary: rows of the token table; the tokenizer uses 32,000 of them.
      buckets: classes of distances, half for each direction.
      max_distance: in tokens, from which on all distances are one class.
      epsilon: of the norms.
    """

    width: int
    depth: int
    heads: int
    mlp: int
    head: int = 64
    vocabulary: int = 32128
    buckets: int = 32
    max_distance: int = 128
    epsilon: float = 1e-6


# The published sizes of T5 v1.1.
SIZES = {
    "small": Size(512, 8, 6, 1024),
    "base": Size(768, 12, 12, 2048),
    "large": Size(1024, 24, 16, 2816),
    "xl": Size(2048, 24, 32, 5120),
    "xxl": Size(4096, 24, 64, 10240),
}


class T5Encoder(nn.Module):
    """Token ids -> features; parameters of the layers are stacked on axis 0.

    Fields:
      size: see `Size`.
      dtype: of the computation; norms and softmax are float32.
      param_dtype: of fresh parameters. Others are accepted, and cast as they are used.
    """

    size: Size
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, ids: Int[Array, "b n"], mask: Bool[Array, "b n"] | None = None
    ) -> Float[Array, "b n d"]:
        """Returns the features of all tokens; those of padding mean nothing.

        Args:
          ids: numbers of tokens, below `vocabulary`.
          mask: True for tokens to attend to; None: all.
        """
        s, param_dtype = self.size, self.param_dtype
        init = nn.initializers.normal(1.0)
        table = self.param("tokens", init, (s.vocabulary, s.width), param_dtype)
        # An id out of range becomes NaN. Clipping would hide the error.
        x = jnp.take(table, ids, axis=0, mode="fill").astype(self.dtype)
        init = nn.initializers.normal(s.width**-0.5)
        biases = self.param("distances", init, (s.buckets, s.heads), param_dtype)
        bias = _attention_bias(biases, s, ids.shape[1], mask)
        scan = nn.scan(
            lambda layer, x, _: (layer(x, bias), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=s.depth,
        )
        layers = _Layer(s, self.dtype, param_dtype, name="layers")
        x, _ = scan(layers, x, None)
        return _RmsNorm(s.epsilon, self.dtype, param_dtype, name="norm")(x)


class _Layer(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    size: Size
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], bias: Float[Array, "c h n n"]
    ) -> Float[Array, "b n d"]:
        s, types = self.size, (self.dtype, self.param_dtype)
        dense = partial(
            nn.Dense, use_bias=False, dtype=self.dtype, param_dtype=self.param_dtype
        )
        y = _RmsNorm(s.epsilon, *types, name="norm_1")(x)
        q, k, v = (
            dense(s.heads * s.head, name=name)(y).reshape(*y.shape[:2], s.heads, s.head)
            for name in ("query", "key", "value")
        )
        y = jax.nn.dot_product_attention(q, k, v, bias, scale=1.0)
        x = x + dense(s.width, name="out")(y.reshape(*y.shape[:2], s.heads * s.head))
        y = _RmsNorm(s.epsilon, *types, name="norm_2")(x)
        gate = nn.gelu(dense(s.mlp, name="gate")(y), approximate=True)
        return x + dense(s.width, name="down")(gate * dense(s.mlp, name="up")(y))


class _RmsNorm(nn.Module):
    """x over its root mean square, without subtracting the mean, times a scale."""

    epsilon: float
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        scale = self.param(
            "scale", nn.initializers.ones, x.shape[-1:], self.param_dtype
        )
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.epsilon)
        return (x * scale.astype(jnp.float32)[None, None]).astype(self.dtype)


def _attention_bias(
    table: Float[Array, "k h"],
    size: Size,
    length: int,
    mask: Bool[Array, "b n"] | None,
) -> Float[Array, "c h n n"]:
    """Returns what is added to the logits: by distance, and -inf for padding."""
    steps = np.arange(length)
    found = buckets(steps[None] - steps[:, None], size.buckets, size.max_distance)
    bias = table.astype(jnp.float32)[found].transpose(2, 0, 1)[None]  # [1, h, n, n]
    if mask is None:
        return bias
    # Not -inf: a row of padding alone would become NaN.
    return jnp.where(mask[:, None, None], bias, jnp.finfo(jnp.float32).min)


def buckets(
    offset: Int[np.ndarray, "n m"], count: int, max_distance: int
) -> Int[np.ndarray, "n m"]:
    """Returns the class of each distance of a key from its query, from 0 to count - 1.

    The second half is for keys that follow the query. Of each half, half the classes
    are single distances, and the others grow in proportion to the distance.

    Args:
      offset: position of the key minus that of the query.
      count: number of classes, a multiple of 4.
      max_distance: from which on all distances are one class.
    """
    half = count // 2
    exact = half // 2
    distance = np.abs(offset)
    # In float32, as everywhere: at the borders of classes rounding decides.
    ratio = np.maximum(distance, 1).astype(np.float32) / np.float32(exact)
    scale = np.float32(math.log(max_distance / exact))
    large = exact + (np.log(ratio) / scale * np.float32(half - exact)).astype(int)
    found = np.where(distance < exact, distance, np.minimum(large, half - 1))
    return found + np.where(offset > 0, half, 0)
