"""The published sizes of DINOv2, and our names for their weights.

Source: Oquab et al., arXiv:2304.07193, without registers.
"""

from typing import NamedTuple

PATCH = 14  # side of the square of one token, in pixels
GRID = 16  # tokens along each side of an image of 224 pixels


class Size(NamedTuple):
    """Size of a vision transformer.

    Fields:
      width: features per token.
      depth: number of blocks.
      heads: per attention layer.
    """

    width: int
    depth: int
    heads: int


MODELS = {"dinov2_b": Size(768, 12, 12), "dinov2_l": Size(1024, 24, 16)}


def shapes(model: str) -> dict[str, tuple[int, ...]]:
    """Returns names and shapes of all parameters.

    Kernels are [in, out]; patches are flattened as (row, column, channel). Parameters
    of the blocks are stacked over the blocks, and their names begin with "blocks.".

    Args:
      model: one of `MODELS`.
    """
    d, depth, _ = MODELS[model]
    block = {
        **{"norm1.scale": (d,), "norm1.bias": (d,)},
        **{"qkv.kernel": (d, 3 * d), "qkv.bias": (3 * d,)},
        **{"out.kernel": (d, d), "out.bias": (d,), "gain1": (d,)},
        **{"norm2.scale": (d,), "norm2.bias": (d,)},
        **{"fc1.kernel": (d, 4 * d), "fc1.bias": (4 * d,)},
        **{"fc2.kernel": (4 * d, d), "fc2.bias": (d,), "gain2": (d,)},
    }
    return {
        **{"patch.kernel": (PATCH * PATCH * 3, d), "patch.bias": (d,)},
        **{"cls": (d,), "position": (1 + GRID * GRID, d)},
        **{f"blocks.{name}": (depth, *shape) for name, shape in block.items()},
        **{"norm.scale": (d,), "norm.bias": (d,)},
    }
