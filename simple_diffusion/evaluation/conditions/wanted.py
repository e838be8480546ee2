"""What images were asked to show, by the kind of condition; arrays on the host.

Shapes: n images, k places for objects, h x w the size of the images.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8

from simple_diffusion.evaluation.metrics.conditions.layout import Layouts

Pixels = UInt8[np.ndarray, "n h w c"]


class Attributes(NamedTuple):
    """Attributes that captions name.

    Fields:
      values: numbers of the values by the name of the attribute; -1 where a caption
        does not name it.
    """

    values: Mapping[str, Int[np.ndarray, "n"]]


class SemanticMaps(NamedTuple):
    """Classes of pixels.

    Fields:
      ids: class numbers; -1 for none.
    """

    ids: Int[np.ndarray, "n h w"]


class SmallImages(NamedTuple):
    """Images at a lower resolution.

    Fields:
      small: their pixels.
      rule: how they were reduced, see `low_resolution.reduce_images`.
    """

    small: UInt8[np.ndarray, "n H W c"]
    rule: str = "area"


class Holes(NamedTuple):
    """Images with a hole; the known pixels are those of the originals.

    Fields:
      hole: True in the hole.
    """

    hole: Bool[np.ndarray, "n h w"]


Wanted = Attributes | Layouts | SemanticMaps | SmallImages | Holes
