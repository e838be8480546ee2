"""Converts published weights of FID's Inception network.

  python -m simple_diffusion.modes.convert inception \\
    --weights pt_inception-2015-12-05-6726825d.pth --output inception.npz

Neither PyTorch nor TensorFlow is needed. `--weights` is one of the published files:

  classify_image_graph_def.pb, the original, in inception-2015-12-05.tgz of
    TensorFlow's models; the evaluator of ADM uses the same file.
  pt_inception-2015-12-05-6726825d.pth, the port of the repository mseitzer/pytorch-fid.
  weights-inception-2015-12-05-6726825d.pth, the port of toshas/torch-fidelity.

or a copy of their arrays under the same names as safetensors or .npz. The weights are
subject to the licences of their publishers, and so is the converted file.

TensorFlow's kernels are [height, width, in, out], which is our layout; PyTorch's are
[out, in, height, width].
"""

from typing import NamedTuple

import numpy as np

from simple_diffusion.weights import inception_layout, weight_files


class _Source(NamedTuple):
    """The source of one of our arrays.

    Fields:
      name: of the array in the file.
      axes: our axes in the order of the file's array.
    """

    name: str
    axes: tuple[int, ...] = (0,)


def convert(weights: str, output: str) -> None:
    """Writes the weights with our names and layout.

    Args:
      weights: path of a published file, see above.
      output: path of the .npz file.

    Raises:
      ValueError: for a file of another format or network, or with arrays missing, of
        other shapes or not finite, naming them.
      OSError: if a file cannot be read or written.
    """
    theirs = weight_files.read(weights)
    sources = _find_sources(weights, theirs)
    weight_files.check_arrays(weights, theirs, _shapes(sources))
    arrays = {
        ours: np.ascontiguousarray(
            theirs[source.name].transpose(np.argsort(source.axes)), np.float32
        )
        for ours, source in sources.items()
    }
    weight_files.check_finite(weights, arrays)
    weight_files.write(output, arrays)


def pytorch_shapes() -> dict[str, tuple[int, ...]]:
    """Returns names and shapes of the tensors in the PyTorch ports."""
    return _shapes(_pytorch_sources())


def _shapes(sources: dict[str, _Source]) -> dict[str, tuple[int, ...]]:
    ours = inception_layout.shapes()
    return {
        source.name: tuple(ours[name][axis] for axis in source.axes)
        for name, source in sources.items()
    }


def _find_sources(file: str, arrays: dict[str, np.ndarray]) -> dict[str, _Source]:
    """Returns the sources of our arrays in a file, by the names in it.

    Raises:
      ValueError: if the file is of another network.
    """
    if "conv/conv2d_params" in arrays:
        return _tensorflow_sources()
    if "Conv2d_1a_3x3.conv.weight" not in arrays:
        raise ValueError(
            f"{file} is not the Inception network: it has neither "
            "Conv2d_1a_3x3.conv.weight of the PyTorch ports, nor "
            "conv/conv2d_params of the TensorFlow graph"
        )
    if arrays.get("fc.weight", np.zeros(0)).shape == (1000, 2048):
        raise ValueError(
            f"{file} is another network, the Inception v3 of torchvision: fc.weight is "
            f"1000x2048, in the network of FID {inception_layout.CLASSES}x2048"
        )
    return _pytorch_sources()


def _pytorch_sources() -> dict[str, _Source]:
    """Returns the sources of our arrays in the PyTorch ports."""
    sources = {}
    for name, _, _ in inception_layout.convolutions():
        sources[f"{name}.kernel"] = _Source(f"{name}.conv.weight", (3, 2, 0, 1))
        sources[f"{name}.scale"] = _Source(f"{name}.bn.weight")
        sources[f"{name}.bias"] = _Source(f"{name}.bn.bias")
        sources[f"{name}.mean"] = _Source(f"{name}.bn.running_mean")
        sources[f"{name}.variance"] = _Source(f"{name}.bn.running_var")
    sources["fc.kernel"] = _Source("fc.weight", (1, 0))
    return sources | {"fc.bias": _Source("fc.bias")}


def _tensorflow_sources() -> dict[str, _Source]:
    """Returns the sources of our arrays in the TensorFlow graph."""
    sources = {}
    for name, scope in _scopes().items():
        sources[f"{name}.kernel"] = _Source(f"{scope}/conv2d_params", (0, 1, 2, 3))
        sources[f"{name}.scale"] = _Source(f"{scope}/batchnorm/gamma")
        sources[f"{name}.bias"] = _Source(f"{scope}/batchnorm/beta")
        sources[f"{name}.mean"] = _Source(f"{scope}/batchnorm/moving_mean")
        sources[f"{name}.variance"] = _Source(f"{scope}/batchnorm/moving_variance")
    sources["fc.kernel"] = _Source("softmax/weights", (0, 1))
    return sources | {"fc.bias": _Source("softmax/biases")}


def _scopes() -> dict[str, str]:
    """Returns the TensorFlow scope of each convolution, by our name.

    Equal names within a scope are numbered from the second on. Every branch is a tower,
    except a single convolution; the ends of a fork are in a scope `mixed` of the tower.
    """
    scopes = {
        name: _number_name("conv", k) for k, name in enumerate(inception_layout.STEM)
    }
    for k, (block, branches) in enumerate(inception_layout.BLOCKS.items()):
        towers = 0
        for branch in branches:
            scope, names = (
                _number_name("mixed", k),
                inception_layout.convolution_names(block, branch),
            )
            if len(names) > 1 or branch.pool:
                scope += f"/{_number_name('tower', towers)}"
                towers += 1
            chain = len(branch.convs)
            for j, name in enumerate(names[:chain]):
                scopes[name] = f"{scope}/{_number_name('conv', j)}"
            for j, name in enumerate(names[chain:]):
                scopes[name] = f"{scope}/mixed/{_number_name('conv', j)}"
    return scopes


def _number_name(word: str, k: int) -> str:
    return f"{word}_{k}" if k else word
