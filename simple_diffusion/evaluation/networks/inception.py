"""The Inception network of FID, as TensorFlow published it on 2015-12-05.

Inception v3 (arXiv:1512.00567) with its own variations: 1008 classes, average pooling
that excludes the padding, and max pooling instead of average pooling in the last block.
FID stands for these features only.

  features  2048, mean of the last block (pool_3): FID, KID, precision and recall.
  spatial   2023, of sFID (arXiv:2103.03841): the first 7 channels of mixed_6/conv:0, 17
            x 17 pixels. In the TensorFlow graph the node of this name is the ReLU
            behind the 1x1 convolution of the block (the convolution itself is
            mixed_6/conv/Conv2D), so they are the first channels of the block's output.
  logits    1008, without bias, as implementations of the Inception score use them.

Blocks have the names of the PyTorch ports: Mixed_5b to Mixed_7c are mixed, mixed_1 to
mixed_10 of the TensorFlow graph, and mixed_6 is Mixed_6d.

The weights are public, but not part of this library. `load` reads a file that
`python -m simple_diffusion.modes.convert inception` writes.
"""

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8

from simple_diffusion.core.types import Params
from simple_diffusion.evaluation.networks import resizing
from simple_diffusion.evaluation.networks.feature_network import FeatureNetwork, Outputs
from simple_diffusion.weights import inception_layout, weight_files
from simple_diffusion.weights.inception_layout import Branch, Conv

SIDE = 299
# The rules of ADM and torch-fidelity, of pytorch-fid, and of clean-fid, in this order.
RESIZES = ("tf1_bilinear", "torch_bilinear", "clean_bicubic")
_SPATIAL_BLOCK, _SPATIAL_CHANNELS = "Mixed_6d", 7
_EPS = 1e-3  # of the batch normalisation
_CONTENT = "weights of the Inception network"
_COMMAND = "python -m simple_diffusion.modes.convert inception"
_POOLED_AFTER = ("Conv2d_2b_3x3", "Conv2d_4a_3x3")  # of the stem


def load(path: str | Path, resize: str = "tf1_bilinear") -> FeatureNetwork:
    """Returns the network with the weights of one local file.

    Args:
      path: a file that `convert_inception` wrote.
      resize: one of `RESIZES`; FIDs of different rules cannot be compared.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: for another rule, a file of another kind, or with arrays missing, of
        other shapes or not finite, naming them.
    """
    if resize not in RESIZES:
        raise ValueError(f"no FID is of {resize!r}: choose from {', '.join(RESIZES)}")
    path = Path(path).expanduser()
    arrays = weight_files.load(path, _CONTENT, _COMMAND)
    weight_files.check_arrays(str(path), arrays, inception_layout.shapes())
    weight_files.check_finite(str(path), arrays)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    apply = functools.partial(_apply, resize)
    return FeatureNetwork(
        "inception", digest, resize, fold_normalisation(arrays), apply
    )


def fold_normalisation(arrays: dict[str, np.ndarray]) -> Params:
    """Returns `forward`'s parameters: batch normalisation folded into the kernels."""
    params = {"fc.kernel": arrays["fc.kernel"].astype(np.float32)}
    for name, _, _ in inception_layout.convolutions():
        kernel, scale, bias, mean, variance = (
            arrays[f"{name}.{part}"].astype(np.float64)
            for part in ("kernel", "scale", "bias", "mean", "variance")
        )
        scale = scale / np.sqrt(variance + _EPS)
        params[f"{name}.kernel"] = (kernel * scale).astype(np.float32)
        params[f"{name}.bias"] = (bias - mean * scale).astype(np.float32)
    return params


def _apply(resize: str, params: Params, images: UInt8[Array, "b h w c"]) -> Outputs:
    return forward(params, preprocess(images, resize))


def preprocess(
    images: UInt8[Array, "b h w c"], resize: str
) -> Float[Array, "b 299 299 3"]:
    """Returns images resized and scaled for the network, in about [-1, 1].

    Raises:
      ValueError: for images that are neither RGB nor grey.
    """
    x = resizing.resize(images, (SIDE, SIDE), resize)
    # The maximum is 1 in pytorch-fid, and just below 1 in the others.
    return x * (2 / 255) - 1 if resize == "torch_bilinear" else (x - 128) / 128


def forward(params: Params, x: Float[Array, "b 299 299 3"]) -> Outputs:
    """Returns the outputs of the network in float32.

    Args:
      params: from `fold_normalisation`.
      x: images from `preprocess`.
    """
    x, spatial = x.astype(jnp.float32), None
    for name, conv in inception_layout.STEM.items():
        x = _convolve(params, name, x, conv)
        if name in _POOLED_AFTER:
            x = _max(x, 2)
    for block, branches in inception_layout.BLOCKS.items():
        x = jnp.concatenate([_branch(params, block, b, x) for b in branches], -1)
        if block == _SPATIAL_BLOCK:
            spatial = x[..., :_SPATIAL_CHANNELS].reshape(len(x), -1)
    features = jnp.mean(x, (1, 2))
    logits = jnp.matmul(features, params["fc.kernel"], precision="highest")
    return Outputs(features, spatial, logits)


def _branch(
    params: Params, block: str, branch: Branch, x: Float[Array, "b h w c"]
) -> Float[Array, "b H W d"]:
    name = iter(inception_layout.convolution_names(block, branch))
    if branch.pool == "halve":
        x = _max(x, 2)
    elif branch.pool == "max":
        x = _max(_pad(x), 1)
    for conv in branch.convs:
        x = _convolve(params, next(name), x, conv, branch.pool == "average")
    if not branch.fork:
        return x
    ends = [_convolve(params, next(name), x, conv) for conv in branch.fork]
    return jnp.concatenate(ends, -1)


def _convolve(
    params: Params,
    name: str,
    x: Float[Array, "b h w c"],
    conv: Conv,
    average: bool = False,
) -> Float[Array, "b H W d"]:
    x = lax.conv_general_dilated(
        x,
        params[f"{name}.kernel"],
        (conv.stride, conv.stride),
        "SAME" if conv.padded else "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )
    if average:  # commutes with the 1x1 convolution, which has fewer output channels
        x = _average(x)
    return nn.relu(x + params[f"{name}.bias"][None, None, None])


def _average(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Returns means over 3 x 3 pixels, without the padding at the border."""
    rows, columns = (np.convolve(np.ones(n), np.ones(3), "same") for n in x.shape[1:3])
    share = jnp.asarray(1 / np.outer(rows, columns), jnp.float32)
    return _reduce_neighbours(_pad(x), jnp.add) * share[None, :, :, None]


def _max(x: Float[Array, "b h w c"], stride: int) -> Float[Array, "b H W c"]:
    """Returns the maximum over 3 x 3 pixels."""
    return _reduce_neighbours(x, jnp.maximum, stride)


def _pad(x: Float[Array, "b h w c"]) -> Float[Array, "b H W c"]:
    # After a ReLU zeros change neither a sum nor a maximum.
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _reduce_neighbours(
    x: Float[Array, "b h w c"], combine: Callable, stride: int = 1
) -> Float[Array, "b H W c"]:
    """Combines 3 x 3 pixels; on CPU faster than `lax.reduce_window`."""
    for axis in (2, 1):
        size = x.shape[axis] - 2
        parts = [lax.slice_in_dim(x, k, k + size, stride, axis) for k in range(3)]
        x = functools.reduce(combine, parts)
    return x
