"""The conditions of a network as tables of sizes: one frozen dataclass per kind.

A condition has a value in `Conditioning.fields`: under its name if it is one array, and
under `name.part` if it has several. It enters the network by one or two ports:

    tokens   read by cross-attention        Text, TextFeatures, ClassToken, Layout
    image    joined to z_t by channels      SemanticMap, LowResolution, Inpainting, Map
    vector   added to the embedding         LowResolution, Vector, Text (pooled)

All conditions with tokens have the same width. For examples that `Conditioning.dropped`
marks, the null takes the place of the value. What it is, is stated with each condition.
Tokens of which there may be any number vanish; the null token that every
cross-attention has is then all that is left. An image becomes zero. Where zero has no
meaning of its own, that is enough; a `Map` has an additional channel that tells.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array

Size = tuple[int, int]
Fields = dict[str, Array]


@dataclass(frozen=True)
class Text:
    """Token ids, read by a transformer that is trained together with the network.

    The value is [b, n] ids, n up to `length`; 0 is padding and comes last. Null: no
    tokens, which is also what an empty text gives.

    Fields:
      vocabulary: number of ids, 0 included.
      length: largest number of tokens.
      width: of the encoder and of its tokens.
      depth: blocks of the encoder.
      heads: a divisor of the width.
      pooled: whether the mean of the tokens enters by the vector as well, as in Imagen
        (arXiv 2205.11487, section 2.3). The vector of an empty text is learned.
      name: of the condition.
    """

    vocabulary: int
    length: int = 77
    width: int = 512
    depth: int = 4
    heads: int = 8
    pooled: bool = False
    name: str = "text"

    def examples(self, batch: int, size: Size) -> Fields:
        """Returns a value of the right shapes for inputs of this size."""
        return {self.name: jnp.ones((batch, self.length), jnp.int32)}


@dataclass(frozen=True)
class TextFeatures:
    """Features of a text by a frozen encoder, mapped linearly to tokens.

    The value is `name.features`, [b, n, features], and `name.mask`, [b, n], True for
    tokens that are not padding. Null: no tokens.

    Fields:
      features: of the frozen encoder.
      length: usual number of tokens; others work, too.
      width: of the tokens.
      name: of the condition.
    """

    features: int
    length: int = 128
    width: int = 512
    name: str = "text"

    def examples(self, batch: int, size: Size) -> Fields:
        """Returns a value of the right shapes for inputs of this size."""
        shape = (batch, self.length)
        return {
            f"{self.name}.features": jnp.zeros((*shape, self.features)),
            f"{self.name}.mask": jnp.ones(shape, bool),
        }


@dataclass(frozen=True)
class ClassToken:
    """A class as one token, as in latent diffusion (arXiv 2112.10752).

    The value is [b] class numbers. Null: the number `classes`, which has its own row of
    the table; a value may be that number as well.

    Fields:
      classes: number of classes.
      width: of the token.
      name: of the condition.
    """

    classes: int
    width: int = 512
    name: str = "class"

    def examples(self, batch: int, size: Size) -> Fields:
        """Returns a value of the right shapes for inputs of this size."""
        return {self.name: jnp.zeros(batch, jnp.int32)}


@dataclass(frozen=True)
class Layout:
    """Boxes with classes as tokens without an order.

    The value is `name.boxes`, [b, k, 4], corners (y0, x0, y1, x1) in units of the
    input, `name.category`, [b, k], class numbers, and `name.present`, [b, k], False for
    padding. Null: no tokens.

    Fields:
      classes: number of classes of objects.
      objects: usual number of boxes; others work, too.
      width: of the tokens.
      bands: frequencies of the Fourier features of the corners, each twice the last.
      name: of the condition.
    """

    classes: int
    objects: int = 30
    width: int = 512
    bands: int = 8
    name: str = "layout"

    def examples(self, batch: int, size: Size) -> Fields:
        """Returns a value of the right shapes for inputs of this size."""
        shape = (batch, self.objects)
        return {
            f"{self.name}.boxes": jnp.zeros((*shape, 4)),
            f"{self.name}.category": jnp.zeros(shape, jnp.int32),
            f"{self.name}.present": jnp.ones(shape, bool),
        }


@dataclass(frozen=True)
class SemanticMap:
    """A class for each pixel; one-hot, then a learned 1x1 convolution without bias.

    The value is [b, h, w] or [b, h, w, 1] class numbers, of the size of the input or a
    multiple, which is averaged: the share of each class in a cell of a latent image.
    Null: zero, as for a pixel whose number is no class. No class maps to zero, unless
    training makes it so, and the channels stay those of latent diffusion.

    Fields:
      classes: number of classes.
      channels: of the image.
      factor: pixels of the map along a side of one cell of the input, in `examples`.
      name: of the condition.
    """

    classes: int
    channels: int = 3
    factor: int = 1
    name: str = "semantic"

    def examples(self, batch: int, size: Size) -> Fields:
        """Returns a value of the right shapes for inputs of this size."""
        h, w = (n * self.factor for n in size)
        return {self.name: jnp.zeros((batch, h, w), jnp.int32)}


@dataclass(frozen=True)
class LowResolution:
    """A small image, resized to the input, with the level of noise that was added.

    The value is `name.image`, [b, h, w, c], and `name.logsnr`, [b], infinity for an
    image without noise. The level enters by the vector; this port also tells a null
    from a grey image: the image becomes zero and the level a learned vector.

    Fields:
      channels: of the image.
      sinusoid_channels: width of the sinusoid of the level, even.
      name: of the condition.
    """

    channels: int = 3
    sinusoid_channels: int = 128
    name: str = "low_resolution"

    def examples(self, batch: int, size: Size) -> Fields:
        """Returns a value of the right shapes for inputs of this size."""
        return {
            f"{self.name}.image": jnp.zeros((batch, *size, self.channels)),
            f"{self.name}.logsnr": jnp.zeros(batch),
        }


@dataclass(frozen=True)
class Inpainting:
    """An image with a hole, and the mask of the hole.

    The value is `name.image`, [b, h, w, c], and `name.mask`, [b, h, w] or [b, h, w, 1],
    1 in the hole. Null: the hole is everywhere.

    Fields:
      channels: of the image.
      erase: whether the image is multiplied by 1 - mask. False is for latent images
        that were encoded after the hole had been erased.
      name: of the condition.
    """

    channels: int = 3
    erase: bool = True
    name: str = "inpainting"

    def examples(self, batch: int, size: Size) -> Fields:
        """Returns a value of the right shapes for inputs of this size."""
        return {
            f"{self.name}.image": jnp.zeros((batch, *size, self.channels)),
            f"{self.name}.mask": jnp.zeros((batch, *size)),
        }


@dataclass(frozen=True)
class Map:
    """Any map of the size of the input: depth, edges, an image.

    The value is [b, h, w, channels], of order one. Null: zero; a further channel is 1
    where there is a value, because zero may be one.

    Fields:
      channels: of the map.
      name: of the condition.
    """

    channels: int
    name: str = "image"

    def examples(self, batch: int, size: Size) -> Fields:
        """Returns a value of the right shapes for inputs of this size."""
        return {self.name: jnp.zeros((batch, *size, self.channels))}


@dataclass(frozen=True)
class Vector:
    """Any features of an example, of order one: a camera, attributes, an embedding.

    The value is [b, features]. Null: a learned vector.

    Fields:
      features: of the vector.
      name: of the condition.
    """

    features: int
    name: str = "vector"

    def examples(self, batch: int, size: Size) -> Fields:
        """Returns a value of the right shapes for inputs of this size."""
        return {self.name: jnp.zeros((batch, self.features))}


TokenSpec = Text | TextFeatures | ClassToken | Layout
Spec = TokenSpec | SemanticMap | LowResolution | Inpainting | Map | Vector


def have_tokens(specs: Sequence[Spec]) -> bool:
    """Returns whether any of the conditions needs cross-attention."""
    return any(isinstance(spec, TokenSpec) for spec in specs)


def examples(specs: Sequence[Spec], batch: int, size: Size) -> Fields:
    """Returns `Conditioning.fields` of the right shapes, to initialise a network.

    Args:
      specs: of the network.
      batch: number of examples.
      size: height and width of the input.
    """
    found: Fields = {}
    for spec in specs:
        found |= spec.examples(batch, size)
    return found


def check(specs: Sequence[Spec]) -> None:
    """Raises ValueError if names repeat or the widths of tokens differ."""
    names = [spec.name for spec in specs]
    if len(set(names)) != len(names):
        raise ValueError(f"each condition needs a name of its own, got {names}")
    widths = {spec.name: spec.width for spec in specs if isinstance(spec, TokenSpec)}
    if len(set(widths.values())) > 1:
        raise ValueError(f"conditions with tokens need the same width, got {widths}")
