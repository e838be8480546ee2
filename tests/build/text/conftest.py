"""Folders with tiny text encoders."""

import pytest

from tests.build.text import text_encoder_folders


@pytest.fixture
def t5_folder(tmp_path):
    return text_encoder_folders.write_t5(tmp_path / "t5")


@pytest.fixture
def clip_folder(tmp_path):
    return text_encoder_folders.write_stable_diffusion(tmp_path / "stable_diffusion")
