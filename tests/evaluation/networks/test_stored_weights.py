"""Weights in a file, with a description."""

import numpy as np
import pytest

from simple_diffusion.evaluation.networks import stored_weights

PARAMS = {"a": {"kernel": np.arange(6.0, dtype=np.float32).reshape(2, 3)}}
ABOUT = {"size": (4, 5), "steps": 7}


def test_weights_come_back_bit_by_bit(tmp_path):
    path = tmp_path / "new" / "weights.npz"
    stored_weights.save(PARAMS, ABOUT, path)
    found = stored_weights.load(path, ABOUT)
    assert found is not None
    np.testing.assert_array_equal(found["a"]["kernel"], PARAMS["a"]["kernel"])
    assert found["a"]["kernel"].dtype == np.float32
    assert [p.name for p in path.parent.iterdir()] == ["weights.npz"]


@pytest.mark.parametrize("about", [{}, {**ABOUT, "steps": 8}, {"size": (4, 5)}])
def test_weights_of_another_description_are_not_loaded(tmp_path, about):
    path = tmp_path / "weights.npz"
    stored_weights.save(PARAMS, ABOUT, path)
    assert stored_weights.load(path, about) is None


def test_a_missing_or_damaged_file_is_not_loaded(tmp_path):
    path = tmp_path / "weights.npz"
    assert stored_weights.load(path, ABOUT) is None
    stored_weights.save(PARAMS, ABOUT, path)
    with np.load(path) as file:
        arrays = dict(file)
    arrays["a.kernel"] = arrays["a.kernel"].T
    np.savez(path, **arrays)
    assert stored_weights.load(path, ABOUT) is None
    path.write_bytes(b"<html>")
    assert stored_weights.load(path, ABOUT) is None


def test_the_digest_covers_names_shapes_types_and_values():
    kernel = PARAMS["a"]["kernel"]
    others = [
        {"b": {"kernel": kernel}},
        {"a": {"kernel": kernel.reshape(3, 2)}},
        {"a": {"kernel": kernel.astype(np.int32)}},
        {"a": {"kernel": kernel + 1}},
    ]
    digests = {stored_weights.digest(each) for each in [PARAMS, *others]}
    assert len(digests) == 5 and {len(digest) for digest in digests} == {12}
