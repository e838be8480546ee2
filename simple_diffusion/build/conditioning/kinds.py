"""The table of conditions: one line for each, which joins its parts.

A part is a function of the condition's section of the config: the spec by which the
network embeds it (`nets/conditioning/specs.py`), the encoder that makes arrays of an
example on the host (`data/conditioning/`), and how `Conditioning.fields` are computed
from these arrays on the device. How users ask for it in sampling:
`pipelines/requests/readers.py`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from simple_diffusion.build.conditioning.lexicon import Lexicon
from simple_diffusion.core import images
from simple_diffusion.core.options import Config
from simple_diffusion.core.types import Batch, Key
from simple_diffusion.data.conditioning import (
    captions,
    encoders,
    inpainting,
    low_resolution,
    text_features,
)
from simple_diffusion.data.conditioning.encoders import Encoder
from simple_diffusion.diffusion import process
from simple_diffusion.nets.conditioning import specs

Fields = dict[str, jax.Array]
Size = tuple[int, int]


class Kind(NamedTuple):
    """The parts of one condition.

    spec: (section, channels of the images) -> the spec.
    encoder: (section, channels of the images, words and names) -> the host encoder.
    fields: (section, batch) -> entries of `Conditioning.fields`, on the device.
    is_spatial: whether a field has the height and width of the input.
    """

    spec: Callable[[Config, int], specs.Spec]
    encoder: Callable[[Config, int, Lexicon], Encoder]
    fields: Callable[[Config, Batch], Fields]
    is_spatial: bool = False


def _text_spec(c: Config, channels: int) -> specs.Spec:
    return specs.Text(c.vocabulary, c.length, c.width, c.depth, c.heads, c.pooled)


def _text_encoder(c: Config, channels: int, lexicon: Lexicon) -> Encoder:
    assert lexicon.tokenizer is not None
    return captions.CaptionEncoder(lexicon.tokenizer, c.length)


def _text_fields(c: Config, batch: Batch) -> Fields:
    return {"text": _field(batch, "text")}


def _text_features_spec(c: Config, channels: int) -> specs.Spec:
    return specs.TextFeatures(c.features, c.length, c.width, name="text_features")


def _text_features_encoder(c: Config, channels: int, lexicon: Lexicon) -> Encoder:
    return text_features.TextFeaturesEncoder(c.features, c.length)


def _text_features_fields(c: Config, batch: Batch) -> Fields:
    names = "text_features.features", "text_features.mask"
    return {name: _field(batch, name) for name in names}


def _layout_spec(c: Config, channels: int) -> specs.Spec:
    return specs.Layout(c.classes, c.objects, c.width, c.bands)


def _layout_encoder(c: Config, channels: int, lexicon: Lexicon) -> Encoder:
    return encoders.ObjectsEncoder(c.objects, c.classes)


def _layout_fields(c: Config, batch: Batch) -> Fields:
    parts = {"boxes": "box", "category": "category", "present": "present"}
    return {f"layout.{k}": _field(batch, f"objects.{v}") for k, v in parts.items()}


def _semantic_spec(c: Config, channels: int) -> specs.Spec:
    return specs.SemanticMap(c.classes, c.channels)


def _semantic_encoder(c: Config, channels: int, lexicon: Lexicon) -> Encoder:
    return encoders.MapEncoder(c.map, classes=c.classes)


def _semantic_fields(c: Config, batch: Batch) -> Fields:
    return {"semantic": _field(batch, f"map:{c.map}")[..., 0]}


def _low_resolution_spec(c: Config, channels: int) -> specs.Spec:
    return specs.LowResolution(channels)


def _low_resolution_encoder(c: Config, channels: int, lexicon: Lexicon) -> Encoder:
    noise = (0.0, c.augmentation) if c.augmentation else None
    return low_resolution.LowResolutionEncoder(c.factor, c.degradation, channels, noise)


def _low_resolution_fields(c: Config, batch: Batch) -> Fields:
    small, logsnr, seed = (
        _field(batch, f"low_resolution.{part}") for part in ("small", "logsnr", "seed")
    )
    size = batch.image.shape[1], batch.image.shape[2]
    return enlarge(small, logsnr, seed, size, c.augmentation > 0)


def enlarge(
    small: jax.Array, logsnr: jax.Array, seed: jax.Array, size: Size, is_noisy: bool
) -> Fields:
    """Returns small images as the condition `low_resolution` takes them.

    Noise-conditioning augmentation (arXiv 2106.15282): the small image is diffused to a
    level that the network is told, and then enlarged by a cubic filter.

    Args:
      small: uint8, [b, h, w, c].
      logsnr: level of the noise, [b]; infinity is none.
      seed: of the noise, [b].
      size: height and width of the large images.
      is_noisy: False leaves out the noise.
    """
    x = images.to_unit_range(small)
    if is_noisy:
        eps = jax.vmap(lambda s: jax.random.normal(_key(s), x.shape[1:]))(seed)
        x = process.add_noise(process.VP, x, eps, logsnr)
    large = jax.image.resize(x, (len(x), *size, x.shape[-1]), "cubic")
    return {"low_resolution.image": large, "low_resolution.logsnr": logsnr}


def _key(seed: jax.Array) -> Key:
    return jax.random.key(seed)


def _inpainting_spec(c: Config, channels: int) -> specs.Spec:
    return specs.Inpainting(channels)


def _inpainting_encoder(c: Config, channels: int, lexicon: Lexicon) -> Encoder:
    return inpainting.InpaintingEncoder(dict.fromkeys(c.holes, 1.0))


def _inpainting_fields(c: Config, batch: Batch) -> Fields:
    image = images.to_unit_range(jnp.asarray(batch.image))
    mask = _field(batch, "inpainting.mask").astype(jnp.float32)
    return {"inpainting.image": image, "inpainting.mask": mask}


def _image_spec(c: Config, channels: int) -> specs.Spec:
    return specs.Map(c.channels)


def _image_encoder(c: Config, channels: int, lexicon: Lexicon) -> Encoder:
    dtype = {"pixels": "uint8", "measure": "float32"}[c.kind]
    return encoders.MapEncoder(c.map, c.channels, dtype)


def _image_fields(c: Config, batch: Batch) -> Fields:
    return {"image": scale_map(c, _field(batch, f"map:{c.map}"))}


def scale_map(c: Config, value: jax.Array) -> jax.Array:
    """Returns a map of the condition `image` in [-1, 1]."""
    if c.kind == "pixels":
        return images.to_unit_range(value)
    return (value - c.low) * (2.0 / (c.high - c.low)) - 1.0


def _vector_spec(c: Config, channels: int) -> specs.Spec:
    return specs.Vector(c.features)


def _vector_encoder(c: Config, channels: int, lexicon: Lexicon) -> Encoder:
    return encoders.VectorEncoder(c.vector, c.features)


def _vector_fields(c: Config, batch: Batch) -> Fields:
    return {"vector": _field(batch, f"vector:{c.vector}")}


def _field(batch: Batch, name: str) -> jax.Array:
    return jnp.asarray(batch.fields[name])


# In the order in which guidance with several weights adds them.
CONDITIONS: dict[str, Kind] = {
    "text": Kind(_text_spec, _text_encoder, _text_fields),
    "text_features": Kind(
        _text_features_spec, _text_features_encoder, _text_features_fields
    ),
    "layout": Kind(_layout_spec, _layout_encoder, _layout_fields),
    "semantic": Kind(_semantic_spec, _semantic_encoder, _semantic_fields, True),
    "low_resolution": Kind(
        _low_resolution_spec, _low_resolution_encoder, _low_resolution_fields, True
    ),
    "inpainting": Kind(_inpainting_spec, _inpainting_encoder, _inpainting_fields, True),
    "image": Kind(_image_spec, _image_encoder, _image_fields, True),
    "vector": Kind(_vector_spec, _vector_encoder, _vector_fields),
}
