"""Makes the one file that the Inception network of FID is loaded from.

  python -m simple_diffusion.modes.convert inception \\
    --weights pt_inception-2015-12-05-6726825d.pth --output inception.npz

Nothing is downloaded, and neither PyTorch nor TensorFlow is needed. `--weights` is any
of the forms that these weights are published in:

  classify_image_graph_def.pb, the original, out of inception-2015-12-05.tgz of
    TensorFlow's models; the evaluator of ADM brings the same file.
  pt_inception-2015-12-05-6726825d.pth, the port of the repository mseitzer/pytorch-fid.
  weights-inception-2015-12-05-6726825d.pth, that of toshas/torch-fidelity.

or a copy of their arrays, under the same names, as safetensors or .npz. They are
subject to the licences of their publishers, and so is what is made of them.

TensorFlow has kernels as [height, width, in, out], which is our layout, and PyTorch as
[out, in, height, width].
"""

from typing import NamedTuple

import numpy as np

from simple_diffusion.weights import inception_layout, weight_files


class _Source(NamedTuple):
    """Where an array comes from.

    Fields:
      name: of it in the file.
      axes: of ours, in the order of the file's.
    """

    name: str
    axes: tuple[int, ...] = (0,)


def convert(weights: str, output: str) -> None:
    """Writes the weights in our names and layout.

    Args:
      weights: path of a file as described above.
      output: path of the .npz file.

    Raises:
      ValueError: for a file of another kind or network, or with arrays missing, of
        other shapes or not finite, naming them.
      OSError: if a file cannot be read or written.
    """
    found = weight_files.read(weights)
    sources = _sources_of(weights, found)
    weight_files.check_arrays(weights, found, _shapes(sources))
    arrays = {
        ours: np.ascontiguousarray(
            found[source.name].transpose(np.argsort(source.axes)), np.float32
        )
        for ours, source in sources.items()
    }
    weight_files.check_finite(weights, arrays)
    weight_files.write(output, arrays)


def pytorch_shapes() -> dict[str, tuple[int, ...]]:
    """Returns names and shapes of the tensors in a port to PyTorch."""
    return _shapes(_of_pytorch())


def _shapes(sources: dict[str, _Source]) -> dict[str, tuple[int, ...]]:
    ours = inception_layout.shapes()
    return {
        source.name: tuple(ours[name][axis] for axis in source.axes)
        for name, source in sources.items()
    }


def _sources_of(file: str, arrays: dict[str, np.ndarray]) -> dict[str, _Source]:
    """Returns where our arrays are in a file, by the names that it has.

    Raises:
      ValueError: the file is of another network.
    """
    if "conv/conv2d_params" in arrays:
        return _of_tensorflow()
    if "Conv2d_1a_3x3.conv.weight" not in arrays:
        raise ValueError(
            f"{file} is not the Inception network: it has neither "
            "Conv2d_1a_3x3.conv.weight, as the ports to PyTorch, nor "
            "conv/conv2d_params, as the graph of TensorFlow"
        )
    if arrays.get("fc.weight", np.zeros(0)).shape == (1000, 2048):
        raise ValueError(
            f"{file} is another network, the Inception v3 of torchvision: fc.weight is "
            f"1000x2048, in the network of FID {inception_layout.CLASSES}x2048"
        )
    return _of_pytorch()


def _of_pytorch() -> dict[str, _Source]:
    """Returns the sources of our arrays in a port to PyTorch."""
    found = {}
    for name, _, _ in inception_layout.convolutions():
        found[f"{name}.kernel"] = _Source(f"{name}.conv.weight", (3, 2, 0, 1))
        found[f"{name}.scale"] = _Source(f"{name}.bn.weight")
        found[f"{name}.bias"] = _Source(f"{name}.bn.bias")
        found[f"{name}.mean"] = _Source(f"{name}.bn.running_mean")
        found[f"{name}.variance"] = _Source(f"{name}.bn.running_var")
    found["fc.kernel"] = _Source("fc.weight", (1, 0))
    return found | {"fc.bias": _Source("fc.bias")}


def _of_tensorflow() -> dict[str, _Source]:
    """Returns the sources of our arrays in the graph of TensorFlow."""
    found = {}
    for name, scope in _scopes().items():
        found[f"{name}.kernel"] = _Source(f"{scope}/conv2d_params", (0, 1, 2, 3))
        found[f"{name}.scale"] = _Source(f"{scope}/batchnorm/gamma")
        found[f"{name}.bias"] = _Source(f"{scope}/batchnorm/beta")
        found[f"{name}.mean"] = _Source(f"{scope}/batchnorm/moving_mean")
        found[f"{name}.variance"] = _Source(f"{scope}/batchnorm/moving_variance")
    found["fc.kernel"] = _Source("softmax/weights", (0, 1))
    return found | {"fc.bias": _Source("softmax/biases")}


def _scopes() -> dict[str, str]:
    """Returns the scope of each convolution in the graph, by our name of it.

    What has the same name in one scope is numbered from the second on. Every branch is
    a tower, but for a single convolution; the ends of a fork are mixed in the tower.
    """
    found = {name: _numbered("conv", k) for k, name in enumerate(inception_layout.STEM)}
    for k, (block, branches) in enumerate(inception_layout.BLOCKS.items()):
        towers = 0
        for branch in branches:
            scope, names = (
                _numbered("mixed", k),
                inception_layout.convolution_names(block, branch),
            )
            if len(names) > 1 or branch.pool:
                scope += f"/{_numbered('tower', towers)}"
                towers += 1
            chain = len(branch.convs)
            for j, name in enumerate(names[:chain]):
                found[name] = f"{scope}/{_numbered('conv', j)}"
            for j, name in enumerate(names[chain:]):
                found[name] = f"{scope}/mixed/{_numbered('conv', j)}"
    return found


def _numbered(word: str, k: int) -> str:
    return f"{word}_{k}" if k else word
