"""Makes the one file that LPIPS is loaded from out of the two that exist for PyTorch.

  python -m simple_diffusion.modes.convert lpips \\
    --trunk alexnet-owt-7be5be79.pth --lin alex.pth --output lpips_alex.npz

PyTorch itself is not needed, and nothing is downloaded. `--trunk` is what torchvision
gives as trained on ImageNet: alexnet-owt-7be5be79.pth (or the older
alexnet-owt-4df8aa71.pth) or vgg16-397923af.pth. `--lin` is alex.pth or vgg.pth out of
the folder lpips/weights/v0.1 of the repository richzhang/PerceptualSimilarity. Which of
the two networks it is, the files tell. They are subject to the licences of their
publishers, and so is what is made of them.
"""

import itertools
from typing import Any

import numpy as np

from simple_diffusion.weights import lpips_layout, weight_files


def convert(trunk_file: str, lin_file: str, output: str) -> str:
    """Writes the weights of both files as one; returns the name of the trunk.

    Args:
      trunk_file: state_dict of torchvision's AlexNet or VGG16.
      lin_file: state_dict of the weights of LPIPS v0.1 for it.
      output: path of the .npz file.

    Raises:
      ValueError: for files of another kind, or with arrays missing or of other shapes,
        naming them.
      OSError: if a file cannot be read or written.
    """
    convs, lins = weight_files.read(trunk_file), weight_files.read(lin_file)
    trunk = _trunk_of(trunk_file, convs)
    names, shapes = pytorch_names(trunk), lpips_layout.shapes(trunk)
    theirs = {names[k]: pytorch_shape(k, shape) for k, shape in shapes.items()}
    for file, arrays, prefix in (
        (trunk_file, convs, "features."),
        (lin_file, lins, "lin"),
    ):
        wanted = {name: s for name, s in theirs.items() if name.startswith(prefix)}
        weight_files.check_arrays(file, arrays, wanted)
    found = convs | lins
    arrays = {ours: _our_layout(ours, found[name]) for ours, name in names.items()}
    weight_files.write(output, {"trunk": np.array(trunk), **arrays})
    return trunk


def _trunk_of(file: str, arrays: dict[str, Any]) -> str:
    """Returns the name of the trunk whose first kernel has the shape of the file's."""
    kernel = arrays.get("features.0.weight")
    if not isinstance(kernel, np.ndarray):
        raise ValueError(f"{file} lacks features.0.weight: it is no AlexNet or VGG16")
    for trunk in lpips_layout.TRUNKS:
        shape = lpips_layout.shapes(trunk)["conv0.kernel"]
        if kernel.shape == pytorch_shape("conv0.kernel", shape):
            return trunk
    raise ValueError(
        f"{file}: features.0.weight has shape {kernel.shape}, which is neither that of "
        "AlexNet nor that of VGG16"
    )


def pytorch_names(trunk: str) -> dict[str, str]:
    """Returns what the files call our arrays.

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


def _our_layout(name: str, array: np.ndarray) -> np.ndarray:
    """Returns an array of PyTorch in our layout, in float32."""
    if name.endswith(".kernel"):
        array = array.transpose(2, 3, 1, 0)
    elif name.startswith("lin"):
        array = array[0, :, 0, 0]
    return np.ascontiguousarray(array, np.float32)
