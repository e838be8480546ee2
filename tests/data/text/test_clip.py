"""CLIP's tokenizer against transformers, with a tiny vocabulary."""

import json

import numpy as np
import pytest

from simple_diffusion.data.errors import DataError
from simple_diffusion.data.text import clip
from tests.data.text import make_tokenizer_fixture as peers

# Whose letters ftfy, which the slow tokenizer uses, replaces by simpler ones.
REPAIRED = [k for k, caption in enumerate(peers.CAPTIONS) if "ｒｅｄ" in caption]


def test_ids_are_those_of_transformers(expected, clip_folder):
    ids = clip.read_tokenizer(clip_folder).encode(peers.CAPTIONS, peers.LENGTH).ids
    np.testing.assert_array_equal(ids, expected["clip_fast"])
    others = np.delete(np.arange(len(ids)), REPAIRED)
    np.testing.assert_array_equal(ids[others], expected["clip_slow"][others])


def test_both_kinds_of_files_make_the_same_tokenizer(expected, clip_folder, tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "tokenizer.json").write_text(str(expected["clip_json"]))
    first, other = clip.read_tokenizer(clip_folder), clip.read_tokenizer(whole)
    ids = first.encode(peers.CAPTIONS, peers.LENGTH).ids
    np.testing.assert_array_equal(ids, other.encode(peers.CAPTIONS, peers.LENGTH).ids)
    assert first.vocabulary_size == other.vocabulary_size


def test_case_and_white_space_do_not_matter(clip_folder):
    tokenizer = clip.read_tokenizer(clip_folder)
    ids = tokenizer.encode(["a red boat", "\n A  RED\tboat "], 16).ids
    np.testing.assert_array_equal(ids[0], ids[1])


def test_padding_is_the_end_token_and_is_attended_to(clip_folder):
    tokenizer = clip.read_tokenizer(clip_folder)
    found = tokenizer.encode([""], 5)
    start, end = tokenizer.start_id, tokenizer.end_id
    assert found.ids.tolist() == [[start, end, end, end, end]]
    assert found.mask.all()
    masked = clip.read_tokenizer(clip_folder, mask_padding=True).encode([""], 5)
    assert masked.mask.tolist() == [[True, True, False, False, False]]


@pytest.mark.parametrize("file", ["special_tokens_map.json", "tokenizer_config.json"])
@pytest.mark.parametrize("token", ["!", {"content": "!", "lstrip": False}])
def test_the_padding_of_the_version_is_read_from_the_folder(clip_folder, file, token):
    (clip_folder / file).write_text(json.dumps({"pad_token": token}))
    tokenizer = clip.read_tokenizer(clip_folder)
    zero = json.loads((clip_folder / "vocab.json").read_text())["!"]
    assert tokenizer.encode([""], 4).ids[0, 2:].tolist() == [zero, zero]
    assert clip.read_tokenizer(clip_folder, pad=clip.END).pad_id == tokenizer.end_id


def test_a_caption_that_is_cut_still_ends(clip_folder):
    tokenizer = clip.read_tokenizer(clip_folder)
    full = tokenizer.encode(["boats " * 40], 60).ids[0]
    cut = tokenizer.encode(["boats " * 40], 10).ids[0]
    np.testing.assert_array_equal(cut[:9], full[:9])
    assert cut[9] == tokenizer.end_id


def test_wrong_files_are_errors_that_name_them(clip_folder, t5_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="it needs vocab.json and merges.txt"):
        clip.read_tokenizer(tmp_path)
    with pytest.raises(DataError, match="model of type Unigram with the end of words"):
        clip.read_tokenizer(t5_folder)
    with pytest.raises(DataError, match="the vocabulary lacks <pad>"):
        clip.read_tokenizer(clip_folder, pad="<pad>")
    (clip_folder / "merges.txt").write_text("#version: 0.2\na b\na b c\n")
    with pytest.raises(DataError, match="merges.txt: line 3 is no pair of tokens"):
        clip.read_tokenizer(clip_folder)
    (clip_folder / "merges.txt").write_text("#version: 0.2\nnever seen\n")
    with pytest.raises(DataError, match="vocab.json and merges.txt do not agree"):
        clip.read_tokenizer(clip_folder)
    (clip_folder / "vocab.json").write_text("{")
    with pytest.raises(DataError, match="vocab.json is not JSON"):
        clip.read_tokenizer(clip_folder)
