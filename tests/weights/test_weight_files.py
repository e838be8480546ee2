"""Every kind of file, told by its content; graphs are written by TensorFlow."""

import re
import zlib

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from simple_diffusion.weights import frozen_graph, weight_files
from tests.weights import torch_saves

KERNEL = np.random.default_rng(0).normal(size=(3, 2, 4, 5)).astype(np.float32)
ARRAYS = {"a/kernel": KERNEL, "a/bias": np.arange(5, dtype=np.float32)}


def write_graph(path, constants):
    """Writes a graph that has, besides constants, what a frozen one has."""
    graph = tf.Graph()
    with graph.as_default():
        contents = tf.compat.v1.constant("text", name="DecodeJpeg/contents")
        for name, value in constants.items():
            tf.identity(tf.compat.v1.constant(value, name=name))
        tf.strings.length(contents, name="last")
    path.write_bytes(graph.as_graph_def().SerializeToString())
    return path


WRITERS = {
    "pytorch": torch_saves.save,
    "safetensors": lambda path, arrays: safetensors.numpy.save_file(arrays, path),
    "npz": weight_files.write,
    "graph": write_graph,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_arrays_come_back_whatever_the_file_is_called(tmp_path, kind):
    path = tmp_path / "download"
    WRITERS[kind](path, ARRAYS)
    found = weight_files.read(path)
    assert found.keys() == ARRAYS.keys()
    for name, value in ARRAYS.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


def test_the_older_layout_of_pytorch_is_read(tmp_path):
    whole = torch_saves.storage("torch.FloatStorage", "0", 5)
    piece = torch_saves.mapping(
        {
            "bias": torch_saves.tensor(whole, 0, (5,), (1,)),
            "version": torch_saves.push(2),
        }
    )
    storages = {"0": (5, ARRAYS["a/bias"].tobytes())}
    path = torch_saves.write_stream(tmp_path / "old", piece, storages)
    found = weight_files.read(path)
    assert list(found) == ["bias"]  # not the plain value
    np.testing.assert_array_equal(found["bias"], ARRAYS["a/bias"])


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_cut_short_is_an_error_that_names_it(tmp_path, kind):
    path = tmp_path / "download"
    WRITERS[kind](path, ARRAYS)
    for kept in (0.4, 0.9, 0.99):
        part = tmp_path / "part"
        part.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
        with pytest.raises(ValueError, match="part (is|holds|cannot)"):
            weight_files.read(part)


def test_files_of_other_kinds_are_refused(tmp_path):
    path = tmp_path / "download.pth"
    for content in (b"", b"<html>not found</html>", b"\x93NUMPY", b"\xff" * 40):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="download.pth is not a file of weights"):
            weight_files.read(path)
    torch_saves.write_zip(path, torch_saves.push([1]))
    with pytest.raises(ValueError, match="holds a list, and no state_dict"):
        weight_files.read(path)
    with pytest.raises(FileNotFoundError, match="missing.pth"):
        weight_files.read(tmp_path / "missing.pth")


def half(path, dtype):
    """Writes safetensors with two numbers of two bytes, by hand."""
    header = f'{{"x":{{"dtype":"{dtype}","shape":[2],"data_offsets":[0,4]}}}}'.encode()
    values = np.array([1.5, -3.0], jnp.bfloat16)
    path.write_bytes(len(header).to_bytes(8, "little") + header + values.tobytes())
    return path


def test_bfloat16_is_read_and_an_unknown_type_refused(tmp_path):
    found = weight_files.read(half(tmp_path / "half.safetensors", "BF16"))["x"]
    assert found.dtype == jnp.bfloat16 and found.tolist() == [1.5, -3.0]
    for dtype in ("F8_E8M0", "BF17"):
        path = half(tmp_path / "new.safetensors", dtype)
        with pytest.raises(
            ValueError, match="safetensors is damaged, or has an unsupp"
        ):
            weight_files.read(path)


TYPES = ("float32", "float64", "float16", "bfloat16", "int8", "int16", "int32")


@pytest.mark.parametrize("dtype", [*TYPES, "int64", "uint8", "bool"])
def test_constants_of_every_type_are_those_of_tensorflow(tmp_path, dtype):
    values = np.random.default_rng(1).normal(0, 9, (3, 4)).astype(jnp.dtype(dtype))
    constants = {
        "many": values,
        "scalar": values[1, 2],
        "one": values[:1, :1],
        "filled": np.full((2, 3), values[0, 1]),
        "empty": values[:0],
        "scope/zeros": np.zeros_like(values),
    }
    found = frozen_graph.read(write_graph(tmp_path / "graph.pb", constants))
    assert found.keys() == constants.keys()
    for name, value in constants.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("values", [[1.5, -2.0, 3.25], [1.5, -2.0], [7.0], []])
def test_values_one_by_one_are_read_and_the_last_goes_on(tmp_path, values):
    tensor = tf.compat.v1.AttrValue().tensor
    tensor.dtype = tf.float32.as_datatype_enum
    tensor.tensor_shape.dim.add().size = 3
    tensor.float_val.extend(values)
    graph = tf.compat.v1.GraphDef()
    node = graph.node.add(name="x", op="Const")
    node.attr["value"].tensor.CopyFrom(tensor)
    path = tmp_path / "graph.pb"
    path.write_bytes(graph.SerializeToString())
    expected = tf.make_ndarray(tensor) if values else np.zeros(3)
    np.testing.assert_array_equal(frozen_graph.read(path)["x"], expected)


def test_a_damaged_graph_never_fails_in_another_way(tmp_path):
    path = write_graph(tmp_path / "graph.pb", ARRAYS)
    whole = path.read_bytes()
    rng = np.random.default_rng(zlib.crc32(b"damage"))
    failed = 0
    for _ in range(300):
        broken = bytearray(whole)
        for at in rng.integers(0, len(whole), 8):
            broken[at] = rng.integers(256)
        path.write_bytes(broken)
        try:
            frozen_graph.read(path)
        except ValueError as error:
            assert "graph.pb" in str(error)
            failed += 1
    assert failed > 50


def test_a_graph_without_constants_is_refused(tmp_path):
    graph = tf.Graph()
    with graph.as_default():
        tf.compat.v1.placeholder(tf.float32, name="x")
    path = tmp_path / "graph.pb"
    path.write_bytes(graph.as_graph_def().SerializeToString())
    with pytest.raises(ValueError, match="graph.pb holds no constants"):
        weight_files.read(path)


def test_what_is_not_as_expected_is_named_up_to_a_dozen():
    expected = {f"x{k}": (2, 3) for k in range(20)}
    with pytest.raises(ValueError, match=r"it lacks x0, x1, .*x11 and 8 more$"):
        weight_files.check_arrays("it", {}, expected)
    arrays = dict.fromkeys(expected, np.zeros((2, 3))) | {"more": np.zeros(1)}
    weight_files.check_arrays("it", arrays, expected)
    arrays["x3"] = np.zeros(6)
    with pytest.raises(
        ValueError, match=re.escape("it: x3 has shape (6,), expected (2, 3)")
    ):
        weight_files.check_arrays("it", arrays, expected)
    arrays["x4"] = np.array([[np.inf]])
    with pytest.raises(ValueError, match="it has numbers .* not finite in x4$"):
        weight_files.check_finite("it", arrays)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "own.npz"
    weight_files.write(path, ARRAYS)
    first = path.read_bytes()
    weight_files.write(path, ARRAYS)
    assert path.read_bytes() == first  # so that its digest says what it holds
    with pytest.raises(OSError):
        weight_files.write(tmp_path / "no folder" / "own.npz", ARRAYS)
    assert [*tmp_path.iterdir()] == [path]


def test_a_file_of_our_own_says_how_it_is_made(tmp_path):
    path = tmp_path / "own.npz"
    with pytest.raises(
        FileNotFoundError, match="no file .*own.npz: create weights with"
    ):
        weight_files.load(path, "weights", "a command")
    path.write_bytes(b"<html>")
    with pytest.raises(ValueError, match="cannot be read as .npz.*with a command"):
        weight_files.load(path, "weights", "a command")
