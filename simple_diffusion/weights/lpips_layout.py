"""The published networks of LPIPS v0.1: their layers, and our names for the weights.

Source: Zhang et al., arXiv:1801.03924; the trunks are those of torchvision.
"""

import itertools
from typing import NamedTuple


class Conv(NamedTuple):
    """A convolution with bias, followed by a ReLU.

    Fields:
      channels: of the output.
      side: of the square kernel, in pixels.
      stride: along both axes.
      padding: zeros at each border.
    """

    channels: int
    side: int = 3
    stride: int = 1
    padding: int = 1


class Trunk(NamedTuple):
    """The convolutions of a network, in stages whose last features are compared.

    Fields:
      title: the network's usual name.
      smallest: side of the smallest images whose last features are not empty.
      stages: convolutions, each followed by a ReLU.
      pooled: for each stage, whether its input is max-pooled.
      window: side of the pooling window; the stride is 2.
    """

    title: str
    smallest: int
    stages: tuple[tuple[Conv, ...], ...]
    pooled: tuple[bool, ...]
    window: int


TRUNKS = {
    "alex": Trunk(
        "AlexNet",
        31,
        (
            (Conv(64, 11, 4, 2),),
            (Conv(192, 5, 1, 2),),
            (Conv(384),),
            (Conv(256),),
            (Conv(256),),
        ),
        (False, True, True, False, False),
        3,
    ),
    "vgg": Trunk(
        "VGG16",
        16,
        (
            (Conv(64),) * 2,
            (Conv(128),) * 2,
            (Conv(256),) * 3,
            (Conv(512),) * 3,
            (Conv(512),) * 3,
        ),
        (False, True, True, True, True),
        2,
    ),
}


def shapes(trunk: str) -> dict[str, tuple[int, ...]]:
    """Returns names and shapes of all parameters.

    conv0.kernel [height, width, in, out], conv0.bias [out] and so on in the order of
    the trunk, then lin0 to lin4, the weights [channels] of the five compared layers.

    Args:
      trunk: "alex" or "vgg".
    """
    stages = TRUNKS[trunk].stages
    arrays, depth = {}, 3
    for k, conv in enumerate(itertools.chain(*stages)):
        arrays[f"conv{k}.kernel"] = (conv.side, conv.side, depth, conv.channels)
        arrays[f"conv{k}.bias"] = (conv.channels,)
        depth = conv.channels
    return arrays | {f"lin{k}": (s[-1].channels,) for k, s in enumerate(stages)}
