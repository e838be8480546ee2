"""Conditions that become tokens for cross-attention: text, class, layout.

Each module returns tokens of about unit variance and their mask; see `specs` for the
values and the nulls. `dropped` is True for examples in which the null takes over.
"""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from simple_diffusion.nets import layers, ops
from simple_diffusion.nets.conditioning import specs
from simple_diffusion.nets.conditioning.text_encoder import TextEncoder

Tokens = tuple[Float[Array, "b n d"], Bool[Array, "b n"]]


class Text(nn.Module):
    """Token ids by a `TextEncoder`."""

    spec: specs.Text
    attention: ops.Implementation | ops.AttentionFn = "auto"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ids: Int[Array, "b n"], dropped: Bool[Array, "b"]) -> Tokens:
        """Returns the tokens and their mask."""
        s = self.spec
        # Before the encoder: a dropped text cannot matter, whatever its ids.
        ids = jnp.where(dropped[:, None], 0, ids)
        encoder = TextEncoder(
            s.vocabulary,
            s.length,
            s.width,
            s.depth,
            s.heads,
            self.attention,
            self.dtype,
            name="encoder",
        )
        return encoder(ids)


class TextFeatures(nn.Module):
    """Features of a frozen encoder, normalised, by a linear map.

    The norm is that of Imagen (arXiv 2205.11487): features of T5 have channels of very
    different scales.
    """

    spec: specs.TextFeatures
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "b n f"],
        mask: Bool[Array, "b n"],
        dropped: Bool[Array, "b"],
    ) -> Tokens:
        """Returns the tokens and their mask.

        Raises:
          ValueError: if the features have another width than the spec says.
        """
        s = self.spec
        if features.shape[-1] != s.features:
            raise ValueError(
                f"{s.name!r} has {features.shape[-1]} features per token, and this"
                f" network was built for {s.features}"
            )
        mask = mask & ~dropped[:, None]
        # Padding may be anything; its norm could have an infinite gradient.
        features = jnp.where(mask[..., None], features, 0)
        h = layers.Norm("layer", dtype=self.dtype, name="norm")(features)
        return layers.Dense(s.width, dtype=self.dtype, name="dense")(h), mask


class ClassToken(nn.Module):
    """One row of a table; the last row is the null."""

    spec: specs.ClassToken
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, label: Int[Array, "b"], dropped: Bool[Array, "b"]) -> Tokens:
        """Returns the token and its mask, which is True; NaN if there is no class."""
        s = self.spec
        init = nn.initializers.normal(1.0)
        table = self.param("table", init, (s.classes + 1, s.width), jnp.float32)
        label = jnp.where(dropped, s.classes, label)
        token = jnp.take(table, label, axis=0, mode="fill")[:, None]
        return token.astype(self.dtype), jnp.ones((len(label), 1), bool)


class Layout(nn.Module):
    """MLP of the class and of the Fourier features of the corners, then a norm.

    Source: GLIGEN (arXiv 2301.07093), section 3.1, where the class is a text. A table
    takes the place of the part of the first Dense layer that would read the class.
    """

    spec: specs.Layout
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        boxes: Float[Array, "b k 4"],
        category: Int[Array, "b k"],
        present: Bool[Array, "b k"],
        dropped: Bool[Array, "b"],
    ) -> Tokens:
        """Returns the tokens and their mask; NaN for an object without a class."""
        s = self.spec
        mask = present & ~dropped[:, None]
        # Padding may be anything, also a class that does not exist.
        boxes = jnp.where(mask[..., None], boxes, 0.0)
        category = jnp.where(mask, category, 0)
        init = nn.initializers.normal(1.0)
        table = self.param("classes", init, (s.classes, s.width), jnp.float32)
        h = corner_features(boxes, s.bands).astype(self.dtype)
        h = layers.Dense(s.width, dtype=self.dtype, name="dense_1")(h)
        h = h + jnp.take(table, category, axis=0, mode="fill").astype(self.dtype)
        h = layers.Dense(s.width, dtype=self.dtype, name="dense_2")(nn.swish(h))
        return layers.Norm("layer", dtype=self.dtype, name="norm")(h), mask


def corner_features(
    boxes: Float[Array, "b k 4"], bands: int
) -> Float[Array, "b k 4*(2*{bands}+1)"]:
    """Returns g, sin(2^j π g) and cos(2^j π g) of each coordinate, g = 2 x - 1.

    Args:
      boxes: corners in units of the input, x from 0 to 1.
      bands: number of frequencies.
    """
    g = 2.0 * boxes - 1.0
    frequency = math.pi * 2.0 ** jnp.arange(bands, dtype=jnp.float32)
    angle = (g[..., None] * frequency[None, None, None]).reshape(*g.shape[:2], -1)
    return jnp.concatenate([g, jnp.sin(angle), jnp.cos(angle)], axis=-1)
