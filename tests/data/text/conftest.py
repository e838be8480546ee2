"""Folders with the files of tiny tokenizers, as they are published."""

from pathlib import Path

import numpy as np
import pytest

from tests.data.text import make_tokenizer_fixture as peers


@pytest.fixture(scope="session")
def expected():
    """The files of the tokenizers, and what transformers makes of the captions."""
    path = Path(peers.__file__).with_name("tokenizer_fixture.npz")
    with np.load(path) as file:
        return dict(file)


@pytest.fixture
def clip_folder(expected, tmp_path):
    folder = tmp_path / "clip"
    folder.mkdir()
    for name, file in (("vocab", "vocab.json"), ("merges", "merges.txt")):
        (folder / file).write_text(str(expected[f"clip_{name}"]))
    return folder


@pytest.fixture
def t5_folder(expected, tmp_path):
    folder = tmp_path / "t5"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(str(expected["t5_json"]))
    return folder
