"""One network in all the forms it is published in, and what is not it."""

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from simple_diffusion.weights import convert_inception, inception_layout, weight_files
from tests.weights import torch_saves

# Scopes of the graph that was published, one of each kind, and PyTorch's names.
SCOPES = {
    "conv": "Conv2d_1a_3x3",
    "conv_4": "Conv2d_4a_3x3",
    "mixed/conv": "Mixed_5b.branch1x1",
    "mixed/tower/conv_1": "Mixed_5b.branch5x5_2",
    "mixed/tower_1/conv_2": "Mixed_5b.branch3x3dbl_3",
    "mixed_2/tower_2/conv": "Mixed_5d.branch_pool",
    "mixed_3/conv": "Mixed_6a.branch3x3",
    "mixed_3/tower/conv": "Mixed_6a.branch3x3dbl_1",
    "mixed_4/tower/conv_2": "Mixed_6b.branch7x7_3",
    "mixed_6/conv": "Mixed_6d.branch1x1",
    "mixed_7/tower_1/conv_4": "Mixed_6e.branch7x7dbl_5",
    "mixed_7/tower_2/conv": "Mixed_6e.branch_pool",
    "mixed_8/tower/conv_1": "Mixed_7a.branch3x3_2",
    "mixed_8/tower_1/conv_3": "Mixed_7a.branch7x7x3_4",
    "mixed_9/tower/conv": "Mixed_7b.branch3x3_1",
    "mixed_9/tower/mixed/conv": "Mixed_7b.branch3x3_2a",
    "mixed_9/tower/mixed/conv_1": "Mixed_7b.branch3x3_2b",
    "mixed_10/tower_1/conv_1": "Mixed_7c.branch3x3dbl_2",
    "mixed_10/tower_1/mixed/conv": "Mixed_7c.branch3x3dbl_3a",
    "mixed_10/tower_1/mixed/conv_1": "Mixed_7c.branch3x3dbl_3b",
    "mixed_10/tower_2/conv": "Mixed_7c.branch_pool",
}


@pytest.fixture(scope="module")
def ours():
    """Whole numbers, all different along each array."""
    rng = np.random.default_rng(0)
    return {
        name: rng.integers(1, 2**20, shape).astype(np.float32)
        for name, shape in inception_layout.shapes().items()
    }


@pytest.fixture(scope="module")
def port(ours):
    """As PyTorch has it: output channels first."""
    found = {}
    parts = ("weight", "bias", "running_mean", "running_var")
    for name, _, _ in inception_layout.convolutions():
        kernel = np.moveaxis(ours[f"{name}.kernel"], (3, 2), (0, 1))
        found[f"{name}.conv.weight"] = np.ascontiguousarray(kernel)
        for theirs, part in zip(
            parts, ("scale", "bias", "mean", "variance"), strict=True
        ):
            found[f"{name}.bn.{theirs}"] = ours[f"{name}.{part}"]
        found[f"{name}.bn.num_batches_tracked"] = np.zeros(1, np.int64)
    found["fc.weight"] = np.ascontiguousarray(ours["fc.kernel"].T)
    return found | {"fc.bias": ours["fc.bias"]}


def convert(weights, output):
    convert_inception.convert(str(weights), str(output))
    return weight_files.read(output)


def failure(weights, output):
    """Returns the message of the error; a failure leaves no file behind."""
    with pytest.raises((ValueError, OSError)) as error:
        convert(weights, output)
    assert not output.exists()
    return str(error.value)


def write_graph(path, ours):
    """Writes the graph's constants as TensorFlow does, by TensorFlow's names."""
    parts = {
        "kernel": "conv2d_params",
        "scale": "batchnorm/gamma",
        "bias": "batchnorm/beta",
        "mean": "batchnorm/moving_mean",
        "variance": "batchnorm/moving_variance",
    }
    scopes = {name: scope for scope, name in all_scopes().items()}
    graph = tf.Graph()
    with graph.as_default():
        tf.compat.v1.constant("a picture", name="DecodeJpeg/contents")
        for key, value in ours.items():
            name, part = key.rsplit(".", 1)
            named = {"fc.kernel": "softmax/weights", "fc.bias": "softmax/biases"}.get(
                key
            )
            tf.compat.v1.constant(value, name=named or f"{scopes[name]}/{parts[part]}")
    path.write_bytes(graph.as_graph_def().SerializeToString())
    return path


def all_scopes():
    """Every scope of the graph, in the order in which PyTorch has the convolutions."""
    a = ["conv", "tower/conv", "tower/conv_1"]
    a += ["tower_1/conv", "tower_1/conv_1", "tower_1/conv_2", "tower_2/conv"]
    c = ["conv", "tower/conv", "tower/conv_1", "tower/conv_2", "tower_1/conv"]
    c += [f"tower_1/conv_{k}" for k in range(1, 5)] + ["tower_2/conv"]
    e = ["conv", "tower/conv", "tower/mixed/conv", "tower/mixed/conv_1"]
    e += ["tower_1/conv", "tower_1/conv_1", "tower_1/mixed/conv"]
    e += ["tower_1/mixed/conv_1", "tower_2/conv"]
    b = ["conv", "tower/conv", "tower/conv_1", "tower/conv_2"]
    d = ["tower/conv", "tower/conv_1", "tower_1/conv"]
    d += [f"tower_1/conv_{k}" for k in range(1, 4)]
    found = ["conv", *(f"conv_{k}" for k in range(1, 5))]
    for k, block in enumerate([a, a, a, b, c, c, c, c, d, e, e]):
        found += [f"mixed{f'_{k}' if k else ''}/{scope}" for scope in block]
    names = [name for name, _, _ in inception_layout.convolutions()]
    return dict(zip(found, names, strict=True))


def test_the_graph_written_here_has_the_scopes_that_were_published():
    assert all_scopes().items() >= SCOPES.items()
    assert len(all_scopes()) == 94


@pytest.mark.parametrize("kind", ["pth", "safetensors", "npz", "pb"])
def test_every_form_gives_the_same_file(tmp_path, ours, port, kind):
    path = tmp_path / f"weights.{kind}"
    if kind == "pth":
        torch_saves.save(path, port)
    elif kind == "safetensors":
        safetensors.numpy.save_file(port, path)
    elif kind == "npz":
        weight_files.write(path, port)
    else:
        write_graph(path, ours)
    found = convert(path, tmp_path / "inception.npz")
    assert found.keys() == ours.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(found[name], value)


def test_the_network_of_torchvision_is_refused(tmp_path, port):
    path = tmp_path / "inception_v3_google.npz"
    other = {"Conv2d_1a_3x3.conv.weight": port["Conv2d_1a_3x3.conv.weight"]}
    weight_files.write(path, other | {"fc.weight": np.zeros((1000, 2048))})
    message = failure(path, tmp_path / "inception.npz")
    assert "is another network, the Inception v3 of torchvision" in message
    assert "fc.weight is 1000x2048, in the network of FID 1008x2048" in message


def test_a_wrong_file_is_an_error_that_names_it_and_what_it_lacks(tmp_path, port):
    path, output = tmp_path / "weights.npz", tmp_path / "inception.npz"
    assert "missing.pth" in failure(tmp_path / "missing.pth", output)
    weight_files.write(path, {"features.0.weight": np.zeros(3)})
    assert "weights.npz is not the Inception network" in failure(path, output)
    weight_files.write(path, {"conv/conv2d_params": np.zeros((3, 3, 3, 32))})
    message = failure(path, output)
    assert "weights.npz lacks conv/batchnorm/gamma, conv/batchnorm/beta, " in message
    assert message.endswith(" and 459 more")
    second = "Conv2d_2b_3x3.conv.weight"
    weight_files.write(path, port | {second: np.moveaxis(port[second], 1, -1)})
    message = failure(path, output)
    assert f"{second} has shape (64, 3, 3, 32), expected (64, 32, 3, 3)" in message
    weight_files.write(path, port | {"fc.bias": np.full(1008, np.nan)})
    assert "not finite in fc.bias" in failure(path, output)
