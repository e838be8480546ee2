"""T5's tokenizer against SentencePiece, with a tiny vocabulary."""

import json

import numpy as np
import pytest

from simple_diffusion.data.errors import DataError
from simple_diffusion.data.text import t5
from tests.data.text import make_tokenizer_fixture as peers


@pytest.mark.parametrize("peer", ["slow", "fast"])
def test_ids_and_mask_are_those_of_transformers(expected, t5_folder, peer):
    found = t5.read_tokenizer(t5_folder).encode(peers.CAPTIONS, peers.LENGTH)
    np.testing.assert_array_equal(found.ids, expected[f"t5_{peer}"])
    np.testing.assert_array_equal(found.mask, expected[f"t5_{peer}_mask"])


def test_the_older_form_of_the_file_gives_the_same_ids(expected, t5_folder):
    # In which the published files of T5 are: white space is split before the pieces.
    path = t5_folder / "tokenizer.json"
    record = json.loads(path.read_text())
    record["normalizer"] = record["normalizer"]["normalizers"][0]
    space = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}
    record["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [{"type": "WhitespaceSplit"}, space],
    }
    path.write_text(json.dumps(record))
    ids = t5.read_tokenizer(path).encode(peers.CAPTIONS, peers.LENGTH).ids
    np.testing.assert_array_equal(ids, expected["t5_slow"])


def test_the_null_is_the_end_token_alone(t5_folder):
    tokenizer = t5.read_tokenizer(t5_folder)
    found = tokenizer.encode(["", " \n"], 4)
    assert found.ids.tolist() == [[1, 0, 0, 0]] * 2
    assert found.mask.tolist() == [[True, False, False, False]] * 2


def test_wrong_files_are_errors_that_name_them(expected, t5_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="not from spiece.model"):
        t5.read_tokenizer(tmp_path)
    path = t5_folder / "tokenizer.json"
    path.write_text(str(expected["clip_json"]))
    with pytest.raises(DataError, match="model of type BPE, T5's is Unigram"):
        t5.read_tokenizer(path)
    record = json.loads(str(expected["t5_json"]))
    record["added_tokens"] = [t for t in record["added_tokens"] if t["id"] > 2]
    vocabulary = record["model"]["vocab"]
    record["model"]["vocab"] = [[t if t != "</s>" else "eos", p] for t, p in vocabulary]
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match="it is not T5's"):
        t5.read_tokenizer(path)
    path.write_text(json.dumps(record | {"model": {"type": "Unigram", "vocab": 3}}))
    with pytest.raises(DataError, match="is no tokenizer"):
        t5.read_tokenizer(path)
