"""A run that version 0.1.0 left can be sampled, evaluated, restored with and resumed.

Its samples and restorations in Python are in tests/pipelines/test_model.py.
"""

import json

import numpy as np
import pytest
from etils import epath
from PIL import Image

from simple_diffusion.modes import evaluate, restore, sample, train
from simple_diffusion.pipelines import runs
from simple_diffusion.training import loop
from tests.faults import tiny
from tests.pipelines import old_run


@pytest.fixture
def workdir(tmp_path):
    return old_run.extract(tmp_path)


def config_of(workdir):
    """The recipe that it was trained with, as a user would state it again."""
    config = tiny.get_config()
    config.train.update(total_steps=8, checkpoint_every_steps=8)
    config.ema.update(power=(0.05,), snapshot_every_steps=4)
    return config


def test_the_stored_config_is_the_recipe_s(workdir):
    stored = json.loads(runs.load_config(epath.Path(workdir)).to_json_best_effort())
    recipe = json.loads(config_of(workdir).to_json_best_effort())
    # A default that has changed since: a stored value stays.
    for name in ("bits", "conditions"):
        recipe["evaluate"]["metrics"].remove(name)
    assert stored == recipe


def test_it_is_sampled_with_the_recipe_as_before(workdir, capsys):
    old = np.load(workdir / "samples" / "samples.npz")["arr_0"]
    drawn = sample.run(config_of(workdir), str(workdir)).images
    # Another compiler may round another way before uint8.
    assert np.abs(drawn.astype(int) - old).max() <= 1
    assert "differs from the training" not in capsys.readouterr().out


def test_it_is_restored_with_as_before(workdir, tmp_path):
    old = workdir / "restored" / "inpaint"
    photo = np.load(workdir / "samples" / "samples.npz")["arr_0"][0]
    Image.fromarray(photo).save(tmp_path / "00000_sunset.png")
    config = config_of(workdir)
    config.restore.update(task="inpaint", hole_mask="box:8x8", steps=4)
    config.restore.input = str(tmp_path / "00000_sunset.png")
    config.restore.output = str(tmp_path / "out")
    restore.run(config, str(workdir))
    for name in ("images/00000_sunset.png", "inputs/00000_sunset.png"):
        before, now = (
            np.asarray(Image.open(f / name)) for f in (old, tmp_path / "out")
        )
        assert np.abs(before.astype(int) - now).max() <= 1


@pytest.mark.slow
def test_it_is_evaluated_as_before(workdir):
    before = json.loads((workdir / "metrics.json").read_text())["metrics"]
    config = config_of(workdir)
    config.evaluate.metrics = ("bits", *config.evaluate.metrics_during_training)
    metrics = evaluate.run(config, str(workdir))
    assert metrics.keys() == before.keys()
    for name, value in before.items():
        assert metrics[name] == pytest.approx(value, rel=1e-3, abs=1e-3), name


@pytest.mark.slow
def test_it_is_resumed(workdir, capsys):
    config = config_of(workdir)
    config.train.update(total_steps=10, checkpoint_every_steps=10)
    result = train.run(config, str(workdir))
    assert result.status == loop.COMPLETE
    assert int(result.state.step) == 10
    lines = [
        json.loads(line)
        for line in (workdir / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in lines] == list(range(1, 11))
    assert "step 9/10" in capsys.readouterr().out
