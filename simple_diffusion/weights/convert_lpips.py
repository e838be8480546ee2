"""Converts the two published files of LPIPS weights to one.

  python -m simple_diffusion.modes.convert lpips \\
    --trunk alexnet-owt-7be5be79.pth --lin alex.pth --output lpips_alex.npz

PyTorch is not needed. `--trunk` is a network of torchvision, trained on ImageNet:
alexnet-owt-7be5be79.pth (or the older alexnet-owt-4df8aa71.pth) or vgg16-397923af.pth.
`--lin` is alex.pth or vgg.pth in the folder lpips/weights/v0.1 of the repository
richzhang/PerceptualSimilarity. The network is detected from the files. The weights are
subject to the licences of their publishers, and so is the converted file.
"""

import itertools
from typing import Any

import numpy as np

from simple_diffusion.weights import lpips_layout, weight_files


def convert(trunk_file: str, lin_file: str, output: str) -> str:
    """Writes the weights of both files to one; returns the name of the trunk.

    Args:
      trunk_file: state_dict of torchvision's AlexNet or VGG16.
      lin_file: state_dict of the weights of LPIPS v0.1 for this trunk.
      output: path of the .npz file.

    Raises:
      ValueError: for files of another format, or with arrays missing or of other
        shapes, naming them.
      OSError: if a file cannot be read or written.
    """
    convs, lins = weight_files.read(trunk_file), weight_files.read(lin_file)
    trunk = _detect_trunk(trunk_file, convs)
    names, shapes = pytorch_names(trunk), lpips_layout.shapes(trunk)
    their_shapes = {names[k]: pytorch_shape(k, shape) for k, shape in shapes.items()}
    for file, arrays, prefix in (
        (trunk_file, convs, "features."),
        (lin_file, lins, "lin"),
    ):
        expected = {
            name: s for name, s in their_shapes.items() if name.startswith(prefix)
        }
        weight_files.check_arrays(file, arrays, expected)
    theirs = convs | lins
    arrays = {ours: _to_our_layout(ours, theirs[name]) for ours, name in names.items()}
    weight_files.write(output, {"trunk": np.array(trunk), **arrays})
    return trunk


def _detect_trunk(file: str, arrays: dict[str, Any]) -> str:
    """Returns the trunk whose first kernel has the shape of that in the file."""
    kernel = arrays.get("features.0.weight")
    if not isinstance(kernel, np.ndarray):
        raise ValueError(
            f"{file} lacks features.0.weight: it is neither AlexNet nor VGG16"
        )
    for trunk in lpips_layout.TRUNKS:
        shape = lpips_layout.shapes(trunk)["conv0.kernel"]
        if kernel.shape == pytorch_shape("conv0.kernel", shape):
            return trunk
    raise ValueError(
        f"{file}: features.0.weight has shape {kernel.shape}, which is neither that of "
        "AlexNet nor that of VGG16"
    )


def pytorch_names(trunk: str) -> dict[str, str]:
    """Returns the name in the published files of each of our arrays.

    torchvision counts every layer: a convolution, its ReLU, a pooling.
    """
    _, _, stages, pooled, _ = lpips_layout.TRUNKS[trunk]
    names, layer, conv = {}, 0, itertools.count()
    for stage, pool in zip(stages, pooled, strict=True):
        layer += pool
        for k in itertools.islice(conv, len(stage)):
            names[f"conv{k}.kernel"] = f"features.{layer}.weight"
            names[f"conv{k}.bias"] = f"features.{layer}.bias"
            layer += 2
    # Layer 0 of a "model" is dropout.
    return names | {f"lin{k}": f"lin{k}.model.1.weight" for k in range(len(stages))}


def pytorch_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of one of our arrays in PyTorch: output channels first."""
    if name.endswith(".kernel"):
        h, w, c, d = shape
        return d, c, h, w
    return (1, *shape, 1, 1) if name.startswith("lin") else shape


def _to_our_layout(name: str, array: np.ndarray) -> np.ndarray:
    """Returns a PyTorch array in our layout, in float32."""
    if name.endswith(".kernel"):
        array = array.transpose(2, 3, 1, 0)
    elif name.startswith("lin"):
        array = array[0, :, 0, 0]
    return np.ascontiguousarray(array, np.float32)
