"""Strict maps of names into trees of parameters."""

import jax
import numpy as np
import pytest
import safetensors.numpy

from simple_diffusion.weights.hugging_face import folder, name_map
from simple_diffusion.weights.hugging_face.name_map import Place

RNG = np.random.default_rng(0)
TREE = {
    "table": jax.ShapeDtypeStruct((5, 2), np.float32),
    "layers": {
        "kernel": jax.ShapeDtypeStruct((2, 2, 3), np.float32),
        "bias": jax.ShapeDtypeStruct((2, 3), np.float32),
    },
}
PLACES = {
    "table.weight": Place("table"),
    "alias.weight": Place("table"),
    "0.weight": Place("layers/kernel", 0, (1, 0)),
    "1.weight": Place("layers/kernel", 1, (1, 0)),
    "0.bias": Place("layers/bias", 0),
    "1.bias": Place("layers/bias", 1),
}
ARRAYS = {
    "table.weight": RNG.normal(size=(5, 2)).astype(np.float32),
    "0.weight": RNG.normal(size=(3, 2)).astype(np.float32),
    "1.weight": RNG.normal(size=(3, 2)).astype(np.float32),
    "0.bias": RNG.normal(size=3).astype(np.float32),
    "1.bias": RNG.normal(size=3).astype(np.float32),
}


def fill(path, arrays, **options):
    safetensors.numpy.save_file(arrays, path / "model.safetensors")
    return name_map.fill(TREE, folder.open_tensors(path), PLACES, **options)


def failure(path, arrays):
    with pytest.raises(ValueError) as error:
        fill(path, arrays)
    return str(error.value)


def test_tensors_come_to_their_places(tmp_path):
    tree = fill(tmp_path, ARRAYS)
    np.testing.assert_array_equal(tree["table"], ARRAYS["table.weight"])
    for k in range(2):
        kernel, bias = tree["layers"]["kernel"][k], tree["layers"]["bias"][k]
        np.testing.assert_array_equal(kernel, ARRAYS[f"{k}.weight"].T)
        np.testing.assert_array_equal(bias, ARRAYS[f"{k}.bias"])


def test_half_precision_is_read_and_made(tmp_path):
    half = {name: array.astype(np.float16) for name, array in ARRAYS.items()}
    tree = fill(tmp_path, half)
    assert tree["table"].dtype == np.float32
    np.testing.assert_array_equal(tree["table"], half["table.weight"])
    assert fill(tmp_path, ARRAYS, dtype=np.float16)["table"].dtype == np.float16


def test_a_tensor_may_have_another_name_or_both_if_they_agree(tmp_path):
    renamed = {**ARRAYS, "alias.weight": ARRAYS["table.weight"]}
    fill(tmp_path, renamed)
    del renamed["table.weight"]
    tree = fill(tmp_path, renamed)
    np.testing.assert_array_equal(tree["table"], ARRAYS["table.weight"])
    both = {**ARRAYS, "alias.weight": ARRAYS["table.weight"] + 1}
    assert "table.weight differs from its other copy" in failure(tmp_path, both)


def test_only_names_that_are_listed_are_left_out(tmp_path):
    more = {**ARRAYS, "decoder.x": np.ones(3, np.float32)}
    assert failure(tmp_path, more).endswith("unexpected: decoder.x")
    fill(tmp_path, more, ignored=r"decoder\..*")


def test_all_that_differs_is_listed_at_once(tmp_path):
    wrong = {**ARRAYS, "1.weight": np.ones((2, 3), np.float32), "z": np.ones(1)}
    del wrong["table.weight"], wrong["0.bias"]
    message = failure(tmp_path, wrong)
    assert "missing: table.weight or alias.weight, 0.bias" in message
    assert "unexpected: z" in message
    assert "1.weight has shape (2, 3), expected (3, 2)" in message


def test_numbers_that_are_not_finite_are_an_error(tmp_path):
    bad = {**ARRAYS, "0.bias": np.array([1, np.nan, 2], np.float32)}
    assert "not finite in 0.bias" in failure(tmp_path, bad)
