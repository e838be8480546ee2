"""What sampling says about the keys that bound its memory."""

import re

import pytest
from etils import epath

from simple_diffusion.configs import base
from simple_diffusion.pipelines import sampling


@pytest.mark.parametrize(
    "windows, batch_size, says",
    [
        (None, 1, "^set sample.window=64, .* or a smaller restore.size=HxW$"),
        (None, 8, "^lower sample.batch_size=8, set sample.window=64"),
        (5, 8, "^lower sample.window=32 or sample.window_batch=16, or .* restore.size"),
    ],
)
def test_advice_names_the_keys_that_have_an_effect(windows, batch_size, says):
    config = base.default()
    config.sample.window = 32
    got = sampling.advise(config, windows, "restore.size", batch_size)
    assert re.search(says, got)


def test_samples_go_to_the_next_free_folder(tmp_path):
    config, workdir = base.default(), epath.Path(tmp_path)
    for name in ("samples", "samples_2", "samples_3"):
        assert sampling.choose_output(config, workdir) == workdir / name
        (workdir / name).mkdir()
        assert sampling.choose_output(config, workdir) == workdir / name  # still empty
        (workdir / name / "mine.png").write_bytes(b"kept")


def test_a_folder_that_holds_files_is_not_written_into(tmp_path):
    config, workdir = base.default(), epath.Path(tmp_path)
    config.sample.output = str(tmp_path / "mine")
    assert sampling.choose_output(config, workdir) == epath.Path(tmp_path / "mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.png").write_bytes(b"kept")
    with pytest.raises(ValueError, match="sample.output=.* already holds files"):
        sampling.choose_output(config, workdir)
