"""The examples of a data source. Imports no JAX: data can be prepared without it.

Shapes: h height, w width, c channels, k objects.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

from jaxtyping import Float, Int, UInt8
from numpy import ndarray


class Objects(NamedTuple):
    """The k objects of one image.

    box: corners (y0, x0, y1, x1) in units of the image.
    category: number of each object's class, from 0; not the `label` of an image.
    """

    box: Float[ndarray, "k 4"]
    category: Int[ndarray, "k"]


@dataclasses.dataclass(frozen=True)
class Example:
    """One example as a data source yields it, on the host.

    A source declares which fields it fills; the others keep their defaults. `image`,
    `objects` and `maps` show the same part of the scene.

    image: pixels, with any number of channels.
    label: class number from 0; 0 for a source without classes.
    caption: a text that describes the image.
    objects: boxes and classes of the objects in the image.
    maps: arrays [h, w, k] by name, such as a semantic map, depth or a mask. The type
      says what a map holds: integers other than uint8, and booleans, are class ids (-1
      for none); uint8 is a picture; floats are a measure such as depth.
    vectors: arrays [d] by name, such as the camera.
    """

    image: UInt8[ndarray, "h w c"]
    label: int = 0
    caption: str | None = None
    objects: Objects | None = None
    maps: Mapping[str, ndarray] = dataclasses.field(default_factory=dict)
    vectors: Mapping[str, ndarray] = dataclasses.field(default_factory=dict)
