"""What all tokenizers have in common."""

import json
import subprocess
import sys
from concurrent import futures

import numpy as np
import pytest

from simple_diffusion.data.errors import DataError
from simple_diffusion.data.text import clip, t5, tokenizer, words
from tests.data.text import make_tokenizer_fixture as peers


@pytest.fixture(params=["clip", "t5", "words"])
def made(request, clip_folder, t5_folder):
    """A tokenizer of each kind, whose files are gone afterwards."""
    if request.param == "words":
        return words.make_tokenizer(peers.SENTENCES)
    if request.param == "clip":
        return clip.read_tokenizer(clip_folder, pad="!", mask_padding=True)
    return t5.read_tokenizer(t5_folder)


def test_a_saved_tokenizer_is_the_same_and_needs_one_file(made, tmp_path):
    path = tmp_path / "tokenizer.json"
    made.save(path)
    loaded = tokenizer.load(path)
    before, after = (m.encode(peers.CAPTIONS, peers.LENGTH) for m in (made, loaded))
    np.testing.assert_array_equal(before.ids, after.ids)
    np.testing.assert_array_equal(before.mask, after.mask)
    assert loaded.describe() == made.describe()
    assert loaded.describe()["kind"] == loaded.kind
    json.dumps(loaded.describe())


def test_rows_do_not_depend_on_each_other_or_on_threads(made):
    together = made.encode(peers.CAPTIONS, peers.LENGTH).ids
    with futures.ThreadPoolExecutor(4) as pool:
        rows = pool.map(lambda c: made.encode([c], peers.LENGTH).ids[0], peers.CAPTIONS)
        np.testing.assert_array_equal(np.stack(list(rows)), together)


def test_ids_are_in_the_vocabulary_and_padding_follows_the_rest(made):
    ids, mask = made.encode(peers.CAPTIONS, peers.LENGTH)
    assert ids.dtype == np.int32 and (ids >= 0).all()
    assert (ids < made.vocabulary_size).all()
    assert (np.diff(mask.astype(int), axis=1) <= 0).all()
    np.testing.assert_array_equal(ids[~mask], made.pad_id)
    assert made.encode([], 7).ids.shape == (0, 7)


def test_a_short_caption_has_the_same_tokens_at_any_length(made):
    short, long = made.encode(["a boat"], 12), made.encode(["a boat"], 40)
    assert short.mask.sum() == long.mask.sum() < 12
    np.testing.assert_array_equal(short.ids, long.ids[:, :12])


def test_captions_that_are_cut_are_counted_in_one_note(made, capsys):
    long = [f"{'a boat ' * 30} {k}" for k in range(12)]
    made.encode([long[0], "a boat"], 12)
    first = capsys.readouterr().out
    assert first.startswith("note: a caption is cut: 'a boat a boat")
    assert "of which 12 are kept (captions so far: 1)" in first
    made.encode([long[0]], 12)  # again
    made.encode(long[:5], 12)
    assert capsys.readouterr().out == ""
    made.encode(long, 12)
    assert "(captions so far: 12)" in capsys.readouterr().out


def test_a_very_long_caption_and_broken_unicode_are_encoded(made, capsys):
    found = made.encode(["boat " * 10_000, "a \udcff boat"], 12)
    assert found.mask[0].all() and found.mask[1].any()


def test_no_room_for_a_token_is_an_error(made):
    least = 1 + sum(x is not None for x in (made.start_id, made.end_id))
    with pytest.raises(
        ValueError, match=f"={least - 1} tokens must be at least {least}"
    ):
        made.encode(["a"], least - 1)
    assert made.encode(["a"], least).ids.shape == (1, least)


def test_other_files_are_errors_that_say_what_they_are(made, t5_folder, tmp_path):
    with pytest.raises(DataError, match="is no tokenizer of a run"):
        tokenizer.load(t5_folder / "tokenizer.json")
    path = tmp_path / "saved.json"
    made.save(path)
    record = json.loads(path.read_text())
    del record["pad_id"]
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match="saved.json is damaged: .*pad_id"):
        tokenizer.load(path)
    path.write_text("[]")
    with pytest.raises(DataError, match="holds a list, not an object"):
        tokenizer.load(path)
    with pytest.raises(FileNotFoundError):
        tokenizer.load(tmp_path / "none.json")


def test_the_library_is_imported_only_to_make_a_tokenizer():
    code = """
import sys
from simple_diffusion.data.text import clip, t5, tokenizer, words
assert "tokenizers" not in sys.modules and "jax" not in sys.modules
words.make_tokenizer(["a boat"])
assert "tokenizers" in sys.modules
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
