"""The conversion of published weights of DINOv2."""

import numpy as np
import pytest
import safetensors.numpy

from simple_diffusion.weights import convert_dinov2, dinov2_layout
from tests.evaluation.networks import make_dinov2_fixture as peers
from tests.weights import torch_saves

WIDTH, DEPTH, _ = peers.TINY


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Makes the small network one of the known ones."""
    monkeypatch.setitem(
        dinov2_layout.MODELS, "dinov2_tiny", dinov2_layout.Size(*peers.TINY)
    )


@pytest.fixture(scope="module")
def official():
    return peers.weights(*peers.TINY)


def convert(folder, arrays, suffix=".pth"):
    """Returns the arrays that are converted from a file with these ones."""
    source, output = folder / f"weights{suffix}", folder / "out.npz"
    if suffix == ".pth":
        torch_saves.save(source, arrays)
    else:
        contiguous = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
        safetensors.numpy.save_file(contiguous, source)
    assert convert_dinov2.convert(str(source), str(output)) == "dinov2_tiny"
    with np.load(output) as file:
        return dict(file)


def failure(folder, arrays):
    """Returns the message of the error; a failure leaves no file behind."""
    with pytest.raises(ValueError) as error:
        convert(folder, arrays)
    assert [p.name for p in folder.iterdir()] == ["weights.pth"]
    return str(error.value)


def test_the_file_has_all_arrays_in_float32(official, tmp_path):
    arrays = convert(tmp_path, official)
    assert str(arrays.pop("model")) == "dinov2_tiny"
    assert {k: v.shape for k, v in arrays.items()} == dinov2_layout.shapes(
        "dinov2_tiny"
    )
    assert all(v.dtype == np.float32 for v in arrays.values())


def test_arrays_of_each_block_are_stacked_with_inputs_first(official, tmp_path):
    arrays = convert(tmp_path, official)
    for k in range(DEPTH):
        np.testing.assert_array_equal(
            arrays["blocks.fc1.kernel"][k], official[f"blocks.{k}.mlp.fc1.weight"].T
        )
        np.testing.assert_array_equal(
            arrays["blocks.gain1"][k], official[f"blocks.{k}.ls1.gamma"]
        )
    kernel = arrays["patch.kernel"].reshape(14, 14, 3, WIDTH)
    theirs = official["patch_embed.proj.weight"]
    np.testing.assert_array_equal(kernel[3, 5, 2], theirs[:, 2, 3, 5])


def test_both_publishers_files_make_the_same(official, tmp_path):
    ours = convert(tmp_path, official)
    theirs = convert(tmp_path, peers.hugging_face(official), ".safetensors")
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name])


def test_blocks_in_chunks_are_the_same_blocks(official, tmp_path):
    chunked = {k.replace("blocks.", "blocks.0."): v for k, v in official.items()}
    assert "blocks.0.2.norm1.weight" in chunked
    ours, theirs = convert(tmp_path, official), convert(tmp_path, chunked)
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name])


def test_weights_of_half_precision_are_read(official, tmp_path):
    half = {k: v.astype(np.float16) for k, v in official.items()}
    arrays = convert(tmp_path, half)
    np.testing.assert_array_equal(
        arrays["norm.scale"], half["norm.weight"].astype(np.float32)
    )


def test_positions_lie_as_if_the_new_grid_had_a_tenth_of_a_token_more(
    official, tmp_path
):
    # Token k is then at (k + 1/2) 37 / 16.1 - 1/2. A straight line comes out straight
    # but for the filter, which with a = -3/4 strays by up to 1/20; without the tenth
    # the last tokens would be 1/5 further on.
    line = np.arange(37.0)
    table = np.zeros((1 + 37**2, WIDTH), np.float32)
    table[0], table[1:, 2] = 7, 3
    table[1:, 0], table[1:, 1] = np.repeat(line, 37), np.tile(line, 37)
    found = convert(tmp_path, official | {"pos_embed": table[None]})["position"]
    np.testing.assert_array_equal(found[0], table[0])
    at = (np.arange(16) + 0.5) * 37 / 16.1 - 0.5
    grid = found[1:].reshape(16, 16, WIDTH)
    inside = slice(1, 15)  # whose four neighbours are all there
    for k in range(16):
        np.testing.assert_allclose(grid[inside, k, 0], at[inside], atol=0.05)
        np.testing.assert_allclose(grid[k, inside, 1], at[inside], atol=0.05)
    np.testing.assert_allclose(grid[..., 2], 3, rtol=1e-6)
    np.testing.assert_array_equal(grid[..., 3:], 0)


def test_a_model_with_registers_is_refused(official, tmp_path):
    arrays = official | {"register_tokens": np.zeros((1, 4, WIDTH), np.float32)}
    assert "is a model with registers" in failure(tmp_path, arrays)
    arrays = peers.hugging_face(official)
    arrays["embeddings.register_tokens"] = np.zeros((1, 4, WIDTH), np.float32)
    assert "is a model with registers" in failure(tmp_path, arrays)


def test_another_size_is_an_error_that_says_which_are_known(official, tmp_path):
    arrays = official | {"cls_token": np.zeros((1, 1, 384), np.float32)}
    message = failure(tmp_path, arrays)
    assert (
        "cls_token has shape (1, 1, 384); known widths are 768 (dinov2_b), 1" in message
    )
    deeper = official | {"blocks.3.norm1.weight": np.zeros(WIDTH, np.float32)}
    assert "more than the 3 blocks of dinov2_tiny" in failure(tmp_path, deeper)


def test_a_wrong_file_is_an_error_that_names_what_is_missing_or_differs(
    official, tmp_path
):
    message = failure(tmp_path, {"features.0.weight": np.zeros((2, 2), np.float32)})
    assert (
        "lacks cls_token or embeddings.cls_token: it is not a DINOv2 model" in message
    )
    lacking = {k: v for k, v in official.items() if k != "blocks.1.ls2.gamma"}
    assert failure(tmp_path, lacking).endswith("lacks blocks.1.ls2.gamma")
    theirs = peers.hugging_face(official)
    del theirs["encoder.layer.2.attention.attention.value.bias"]
    message = failure(tmp_path, theirs)
    assert message.endswith("lacks encoder.layer.2.attention.attention.value.bias")
    small = official | {"pos_embed": np.zeros((1, 257, WIDTH), np.float32)}
    expected = "pos_embed has shape (1, 257, 24), expected (1, 1370, 24)"
    assert expected in failure(tmp_path, small)
    broken = official | {"norm.bias": np.full(WIDTH, np.nan, np.float32)}
    assert "not finite in norm.bias" in failure(tmp_path, broken)
