"""All conditions of a network together: fields -> tokens, image and vector."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from simple_diffusion.core.types import Conditioning
from simple_diffusion.nets import layers, transformer
from simple_diffusion.nets.conditioning import maps, specs, tokens
from simple_diffusion.nets.conditioning.specs import Size, Spec
from simple_diffusion.nets.conditioning.tokens import Tokens
from simple_diffusion.nets.layers import Style


class Effect(NamedTuple):
    """What one condition contributes to each port; None: nothing."""

    tokens: Tokens | None = None
    image: Float[Array, "b h w c"] | None = None
    vector: Float[Array, "b k"] | None = None


class Ports(nn.Module):
    """Conditioning with fields -> conditioning whose ports hold their effect.

    Tokens follow each other, images are joined by channels, vectors are summed; those
    that the conditioning has already come first. Without specs there are no parameters.

    Fields:
      conditions: their specs.
      style: whether there is cross-attention without such conditions, and the
        implementation of attention in encoders.
      vector_width: of the vectors of conditions.
      dtype: of tokens and of what they are computed by.
    """

    conditions: tuple[Spec, ...]
    style: Style
    vector_width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, cond: Conditioning, z_t: Float[Array, "b h w c"]
    ) -> tuple[Conditioning, transformer.Context | None]:
        """Returns the conditioning without fields, and the tokens for cross-attention.

        Args:
          cond: the conditioning.
          z_t: input of the network.

        Raises:
          ValueError: if a field is missing, or is of no condition, if tokens are
            missing or come without cross-attention, or if shapes do not match.
        """
        specs.check(self.conditions)
        batch, size = len(z_t), (z_t.shape[1], z_t.shape[2])
        examples = specs.examples(self.conditions, 1, size)
        _check_names(cond, list(examples), [spec.name for spec in self.conditions])
        given = None
        if cond.tokens is not None:
            mask = cond.token_mask
            mask = jnp.ones(cond.tokens.shape[:2], bool) if mask is None else mask
            given = cond.tokens.astype(self.dtype), mask
        effects = [Effect(given, cond.image, cond.vector)]
        for spec in self.conditions:
            dropped = cond.dropped.get(spec.name, jnp.zeros(batch, bool))
            effects.append(self._effect(spec, cond.fields, dropped, size))
        context = _join_tokens([e.tokens for e in effects if e.tokens is not None])
        needs_tokens = self.style.cross_attention or specs.have_tokens(self.conditions)
        if context is not None and not needs_tokens:
            raise ValueError("a network without cross-attention got tokens")
        if context is None and needs_tokens:
            raise ValueError("a network with cross-attention got no tokens")
        joined = dataclasses.replace(
            cond,
            fields={},
            dropped={},
            tokens=None,
            token_mask=None,
            image=_join_images([e.image for e in effects if e.image is not None]),
            vector=_sum_vectors([e.vector for e in effects if e.vector is not None]),
        )
        return joined, context

    def _effect(
        self,
        spec: Spec,
        fields: Mapping[str, Array],
        dropped: Bool[Array, "b"],
        size: Size,
    ) -> Effect:
        name = spec.name

        def part(key: str) -> Array:
            return fields[f"{name}.{key}"]

        match spec:
            case specs.Text():
                text = tokens.Text(spec, self.style.attention, self.dtype, name=name)
                found = text(fields[name], dropped)
                return Effect(tokens=found, vector=self._pool(spec, *found))
            case specs.TextFeatures():
                text = tokens.TextFeatures(spec, self.dtype, name=name)
                return Effect(tokens=text(part("features"), part("mask"), dropped))
            case specs.ClassToken():
                label = tokens.ClassToken(spec, self.dtype, name=name)
                return Effect(tokens=label(fields[name], dropped))
            case specs.Layout():
                layout = tokens.Layout(spec, self.dtype, name=name)
                objects = part("boxes"), part("category"), part("present")
                return Effect(tokens=layout(*objects, dropped))
            case specs.SemanticMap():
                semantic = maps.SemanticMap(spec, name=name)
                return Effect(image=semantic(fields[name], dropped, size))
            case specs.LowResolution():
                small = maps.LowResolution(spec, self.vector_width, name=name)
                image, vector = small(part("image"), part("logsnr"), dropped)
                return Effect(image=image, vector=vector)
            case specs.Inpainting():
                image = maps.erase_hole(spec, part("image"), part("mask"), dropped)
                return Effect(image=image)
            case specs.Map():
                return Effect(image=maps.select_map(spec, fields[name], dropped))
            case specs.Vector():
                vector = maps.Vector(self.vector_width, name=name)
                return Effect(vector=vector(fields[name], dropped))

    def _pool(
        self,
        spec: specs.Text,
        features: Float[Array, "b n d"],
        mask: Bool[Array, "b n"],
    ) -> Float[Array, "b k"] | None:
        """Returns the vector of the mean of all tokens of a text."""
        if not spec.pooled:
            return None
        mean = jnp.where(mask[..., None], features.astype(jnp.float32), 0).sum(1)
        mean = mean / jnp.maximum(mask.sum(1), 1)[:, None]
        # The mean of different tokens is small; what tells texts apart would be lost.
        mean = layers.Norm("layer", name=f"{spec.name}_pooled_norm")(mean)
        vector = maps.Vector(self.vector_width, name=f"{spec.name}_pooled")
        return vector(mean, ~mask.any(1))


def _check_names(cond: Conditioning, fields: list[str], names: list[str]) -> None:
    missing = [key for key in fields if key not in cond.fields]
    if missing:
        raise ValueError(
            f"this network is conditioned on {names} and got no {missing};"
            f" it got {sorted(cond.fields)}"
        )
    for kind, given, known in (
        ("fields", cond.fields, fields),
        ("dropped", cond.dropped, names),
    ):
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise ValueError(
                f"the conditioning has {kind} {unknown}, and this network knows {known}"
            )


def _join_tokens(found: list[tuple[Array, Array]]) -> transformer.Context | None:
    if not found:
        return None
    widths = [features.shape[-1] for features, _ in found]
    if len(set(widths)) > 1:
        raise ValueError(f"tokens need the same width, got {widths}")
    features = jnp.concatenate([features for features, _ in found], axis=1)
    return transformer.pack_tokens(
        features, jnp.concatenate([mask for _, mask in found], axis=1)
    )


def _join_images(found: list[Array]) -> Array | None:
    if len(found) < 2:
        return found[0] if found else None
    sizes = [image.shape[1:3] for image in found]
    if len(set(sizes)) > 1:
        raise ValueError(f"conditioning images need the same size, got {sizes}")
    return jnp.concatenate(found, axis=-1)


def _sum_vectors(found: list[Array]) -> Array | None:
    if not found:
        return None
    widths = [vector.shape[-1] for vector in found]
    if len(set(widths)) > 1:
        raise ValueError(f"vectors need the same width, got {widths}")
    return sum(found[1:], start=found[0])
