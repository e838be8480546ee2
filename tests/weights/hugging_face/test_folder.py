"""Folders of safetensors, in one file and in shards."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from simple_diffusion.weights.hugging_face import folder

ARRAYS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b.weight": np.arange(4).astype(np.float16),
    "c.bias": np.arange(5).astype(jnp.bfloat16),
}


def save_shards(path, arrays, count=2, stem="model"):
    """Writes arrays by turns into shards, with their index."""
    files = [f"{stem}-{k + 1:05}-of-{count:05}.safetensors" for k in range(count)]
    names = sorted(arrays)
    for k, file in enumerate(files):
        part = {name: arrays[name] for name in names[k::count]}
        safetensors.numpy.save_file(part, path / file)
    index = {name: files[k % count] for k, name in enumerate(names)}
    record = {"metadata": {}, "weight_map": index}
    (path / f"{stem}.safetensors.index.json").write_text(json.dumps(record))
    return files


@pytest.mark.parametrize("sharded", [False, True])
def test_every_tensor_comes_back_with_its_shape_and_type(tmp_path, sharded):
    if sharded:
        save_shards(tmp_path, ARRAYS)
    else:
        safetensors.numpy.save_file(ARRAYS, tmp_path / "model.safetensors")
    tensors = folder.open_tensors(tmp_path)
    assert tensors.shapes == {name: array.shape for name, array in ARRAYS.items()}
    found = dict(tensors.read())
    assert found.keys() == ARRAYS.keys()
    for name, array in found.items():
        assert array.dtype == ARRAYS[name].dtype
        np.testing.assert_array_equal(array, ARRAYS[name])


def test_a_variant_is_another_file(tmp_path):
    safetensors.numpy.save_file({"x": np.ones(2)}, tmp_path / "model.fp16.safetensors")
    assert folder.open_tensors(tmp_path, variant="fp16").shapes == {"x": (2,)}
    message = (
        "no model.safetensors and no model.safetensors.index.json; it has model.fp"
    )
    with pytest.raises(FileNotFoundError, match=message):
        folder.open_tensors(tmp_path)


def test_a_missing_shard_and_a_wrong_index_are_errors_that_name_them(tmp_path):
    files = save_shards(tmp_path, ARRAYS)
    safetensors.numpy.save_file(
        {"b.weight": np.ones(4), "d": np.ones(1)}, tmp_path / files[1]
    )
    with pytest.raises(ValueError, match="about 1 tensors, such as d"):
        folder.open_tensors(tmp_path)
    (tmp_path / files[1]).unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {files[1]}"):
        folder.open_tensors(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match="index.json is damaged"):
        folder.open_tensors(tmp_path)


def test_pickles_and_damaged_files_are_not_read(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="bin must be saved as safetensors"):
        folder.open_tensors(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(ValueError, match="model.safetensors is damaged"):
        folder.open_tensors(tmp_path)


def test_a_config_is_an_object_in_a_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="it states the sizes"):
        folder.read_config(tmp_path)
    for text, message in (("{", "is not JSON"), ("[1]", "holds a list")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            folder.read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"d_model": 3}')
    assert folder.read_config(tmp_path) == {"d_model": 3}
