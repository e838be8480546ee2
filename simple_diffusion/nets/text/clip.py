"""The text transformer of CLIP, which turns tokens of a caption into features.

A pre-norm transformer with learned positions, in which a token attends to itself and
to those before it. CLIP of OpenAI (and Stable Diffusion 1) has the quick approximation
of GELU, OpenCLIP (and Stable Diffusion 2) the exact one.

Source: Radford et al., arXiv:2103.00020, section 2.4. Parity with another
implementation is tested on random weights.

Shapes: b batch, n tokens, d width, h heads.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Activation = Literal["quick_gelu", "gelu_exact"]

_EPSILON = 1e-5  # of the norms


@dataclass(frozen=True)
class Size:
    """Sizes of a text transformer, and its nonlinearity.

    Fields:
      width: of a token.
      depth: number of layers.
      heads: per layer, a divisor of the width.
      mlp: hidden units of the MLP.
      activation: "quick_gelu" is x sigmoid(1.702 x).
      vocabulary: number of tokens.
      length: the most tokens of a caption.
    """

    width: int
    depth: int
    heads: int
    mlp: int
    activation: Activation = "quick_gelu"
    vocabulary: int = 49408
    length: int = 77

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} must divide width={self.width}")


# Stable Diffusion 2 has the first 23 of the 24 layers of OpenCLIP's ViT-H.
SIZES = {
    "vit_l_14": Size(768, 12, 12, 3072),
    "open_vit_h_14": Size(1024, 24, 16, 4096, "gelu_exact"),
    "stable_diffusion_2": Size(1024, 23, 16, 4096, "gelu_exact"),
}


class Features(NamedTuple):
    """What a caption becomes.

    last: features of each token after the last layer and the final norm.
    penultimate: features before the last layer, without a norm.
    pooled: of `last` the token that ends the caption.
    """

    last: Float[Array, "b n d"]
    penultimate: Float[Array, "b n d"]
    pooled: Float[Array, "b d"]


class ClipText(nn.Module):
    """Token ids -> features; parameters of the layers are stacked on axis 0.

    Fields:
      size: see `Size`.
      end_id: the token that ends a caption; the first one counts, since it also pads.
      dtype: of the computation; norms and softmax are float32.
      param_dtype: of fresh parameters. Others are accepted, and cast as they are used.
    """

    size: Size
    end_id: int = 49407
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ids: Int[Array, "b n"]) -> Features:
        """Returns the features of all tokens, padding included.

        Args:
          ids: numbers of tokens, below `vocabulary`.

        Raises:
          ValueError: if there are more tokens than positions.
        """
        s, n = self.size, ids.shape[1]
        if n > s.length:
            raise ValueError(f"{n} tokens are more than the {s.length} that CLIP has")
        normal = nn.initializers.normal(0.02)
        shape = (s.vocabulary, s.width)
        table = self.param("tokens", normal, shape, self.param_dtype)
        shape = (s.length, s.width)
        positions = self.param("positions", normal, shape, self.param_dtype)
        # An id out of range becomes NaN. Clipping would hide the error.
        x = jnp.take(table, ids, axis=0, mode="fill") + positions[None, :n]
        scan = nn.scan(
            lambda layer, carry, _: ((layer(carry[0]), carry[0]), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=s.depth,
        )
        layers = _Layer(s, self.dtype, self.param_dtype, name="layers")
        x = x.astype(self.dtype)
        (x, penultimate), _ = scan(layers, (x, x), None)
        last = _norm("norm", self.dtype, self.param_dtype)(x)
        at = jnp.argmax(ids == self.end_id, axis=1)
        pooled = jnp.take_along_axis(last, at[:, None, None], axis=1)[:, 0]
        return Features(last, penultimate, pooled)


class _Layer(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    size: Size
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        s, types = self.size, (self.dtype, self.param_dtype)
        dense = partial(nn.Dense, dtype=self.dtype, param_dtype=self.param_dtype)
        y = _norm("norm_1", *types)(x)
        q, k, v = (
            dense(s.width, name=name)(y).reshape(*y.shape[:2], s.heads, -1)
            for name in ("query", "key", "value")
        )
        y = jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape)
        x = x + dense(s.width, name="out")(y)
        y = dense(s.mlp, name="up")(_norm("norm_2", *types)(x))
        return x + dense(s.width, name="down")(_activate(y, s.activation))


def _norm(name: str, dtype: Any, param_dtype: Any) -> nn.LayerNorm:
    return nn.LayerNorm(_EPSILON, dtype=dtype, param_dtype=param_dtype, name=name)


def _activate(x: Array, activation: str) -> Array:
    if activation == "quick_gelu":
        return x * nn.sigmoid(1.702 * x)
    return nn.gelu(x, approximate=False)
