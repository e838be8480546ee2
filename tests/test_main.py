"""The command line as a user meets it when something is wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
QUICKSTART = ["--config", "configs/quickstart.py"]


def run(*flags):
    command = [sys.executable, "-m", "simple_diffusion.main", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([*QUICKSTART, "--config.train.batchsize=3"], 'Did you mean "batch_size"'),
        (
            [*QUICKSTART, "--config.data.source=folder:/no/such/folder"],
            "data.source=folder:/no/such",
        ),
        (
            [*QUICKSTART, "--config.model.name=vit"],
            "model.name='vit' must be one of: unet, uvit",
        ),
        (["--config", "configs/imagenet512.py"], "ILSVRC2012_img_train.tar"),
        (["--config=quickstart", "--config.train.batchsize=3"], '"batch_size"'),
        (["--config", "anyres_scenes:papr"], "must be one of ours, paper"),
        (["--config=quickstat"], "digits, imagenet128, imagenet256"),
        (["--config", "configs/quickstat.py"], "there is no recipe at /"),
        ([*QUICKSTART, "--mode=sample"], "holds no trained model"),
        ([*QUICKSTART, "--mode=restore"], "holds no trained model"),
    ],
)
def test_what_is_wrong_is_said_in_words_and_not_in_a_traceback(flags, said, tmp_path):
    code, output = run(f"--workdir={tmp_path / 'run'}", *flags)
    assert code == 1
    assert said in output
    assert "Traceback" not in output


def test_a_workdir_is_asked_for():
    code, output = run(*QUICKSTART)
    assert code != 0
    assert "--workdir" in output
