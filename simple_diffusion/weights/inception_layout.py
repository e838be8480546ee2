"""The layers of FID's Inception network, and our names for its weights.

Inception v3 (arXiv:1512.00567) as TensorFlow published it on 2015-12-05, with 1008
classes. Blocks and branches have the names of the PyTorch ports; there Mixed_5b to
Mixed_7c are mixed, mixed_1 to mixed_10 of the TensorFlow graph.
"""

from collections.abc import Iterator
from typing import NamedTuple

CLASSES = 1008


class Conv(NamedTuple):
    """A convolution, followed by batch normalisation and a ReLU.

    Fields:
      channels: of the output.
      height, width: of the kernel.
      stride: along both axes.
      padded: whether zeros at the border keep the size.
    """

    channels: int
    height: int = 1
    width: int = 1
    stride: int = 1
    padded: bool = True


class Branch(NamedTuple):
    """One of the branches of a block; the block concatenates their outputs.

    Fields:
      name: in the PyTorch ports.
      convs: applied one after the other.
      fork: applied to the output of `convs` in parallel, and concatenated.
      pool: applied first: "average" or "max" over 3 x 3 pixels, or "halve", a maximum
        with stride 2.
    """

    name: str
    convs: tuple[Conv, ...] = ()
    fork: tuple[Conv, ...] = ()
    pool: str = ""


def _block_of_35(pooled: int) -> tuple[Branch, ...]:
    return (
        Branch("branch1x1", (Conv(64),)),
        Branch("branch5x5", (Conv(48), Conv(64, 5, 5))),
        Branch("branch3x3dbl", (Conv(64), Conv(96, 3, 3), Conv(96, 3, 3))),
        Branch("branch_pool", (Conv(pooled),), pool="average"),
    )


def _block_of_17(c: int) -> tuple[Branch, ...]:
    double = (Conv(c), Conv(c, 7, 1), Conv(c, 1, 7), Conv(c, 7, 1), Conv(192, 1, 7))
    return (
        Branch("branch1x1", (Conv(192),)),
        Branch("branch7x7", (Conv(c), Conv(c, 1, 7), Conv(192, 7, 1))),
        Branch("branch7x7dbl", double),
        Branch("branch_pool", (Conv(192),), pool="average"),
    )


def _block_of_8(pool: str) -> tuple[Branch, ...]:
    fork = (Conv(384, 1, 3), Conv(384, 3, 1))
    return (
        Branch("branch1x1", (Conv(320),)),
        Branch("branch3x3", (Conv(384),), fork),
        Branch("branch3x3dbl", (Conv(448), Conv(384, 3, 3)), fork),
        Branch("branch_pool", (Conv(192),), pool=pool),
    )


def _halve(channels: int) -> Conv:
    return Conv(channels, 3, 3, stride=2, padded=False)


STEM = {
    "Conv2d_1a_3x3": _halve(32),
    "Conv2d_2a_3x3": Conv(32, 3, 3, padded=False),
    "Conv2d_2b_3x3": Conv(64, 3, 3),
    "Conv2d_3b_1x1": Conv(80),
    "Conv2d_4a_3x3": Conv(192, 3, 3, padded=False),
}
BLOCKS = {
    "Mixed_5b": _block_of_35(32),  # 35 x 35 pixels
    "Mixed_5c": _block_of_35(64),
    "Mixed_5d": _block_of_35(64),
    "Mixed_6a": (
        Branch("branch3x3", (_halve(384),)),
        Branch("branch3x3dbl", (Conv(64), Conv(96, 3, 3), _halve(96))),
        Branch("branch_pool", pool="halve"),
    ),
    "Mixed_6b": _block_of_17(128),  # 17 x 17
    "Mixed_6c": _block_of_17(160),
    "Mixed_6d": _block_of_17(160),
    "Mixed_6e": _block_of_17(192),
    "Mixed_7a": (
        Branch("branch3x3", (Conv(192), _halve(320))),
        Branch(
            "branch7x7x3", (Conv(192), Conv(192, 1, 7), Conv(192, 7, 1), _halve(192))
        ),
        Branch("branch_pool", pool="halve"),
    ),
    "Mixed_7b": _block_of_8("average"),  # 8 x 8
    "Mixed_7c": _block_of_8("max"),
}


def convolution_names(block: str, branch: Branch) -> list[str]:
    """Returns the names of a branch's convolutions; those of the fork come last."""
    root, n = f"{block}.{branch.name}", len(branch.convs)
    if n + len(branch.fork) == 1:
        return [root]
    chain = [f"{root}_{k + 1}" for k in range(n)]
    return chain + [f"{root}_{n + 1}{'ab'[k]}" for k in range(len(branch.fork))]


def convolutions() -> Iterator[tuple[str, int, Conv]]:
    """Yields (name, input channels, convolution) for every convolution, in order."""
    depth = 3
    for name, conv in STEM.items():
        yield name, depth, conv
        depth = conv.channels
    for block, branches in BLOCKS.items():
        joined = 0
        for branch in branches:
            name, inside = iter(convolution_names(block, branch)), depth
            for conv in branch.convs:
                yield next(name), inside, conv
                inside = conv.channels
            for conv in branch.fork:
                yield next(name), inside, conv
            joined += sum(conv.channels for conv in branch.fork) or inside
        depth = joined


def shapes() -> dict[str, tuple[int, ...]]:
    """Returns names and shapes of the arrays in a file of weights.

    Each convolution has a kernel [height, width, in, out], and scale, bias, mean and
    variance [out] of its batch normalisation; then fc.kernel [2048, 1008] and fc.bias
    [1008].
    """
    arrays = {}
    for name, depth, conv in convolutions():
        arrays[f"{name}.kernel"] = (conv.height, conv.width, depth, conv.channels)
        for part in ("scale", "bias", "mean", "variance"):
            arrays[f"{name}.{part}"] = (conv.channels,)
    return arrays | {"fc.kernel": (2048, CLASSES), "fc.bias": (CLASSES,)}
