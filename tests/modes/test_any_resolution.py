"""Any resolution from the command line: a tiny run, sampled at many sizes."""

import json

import numpy as np
import pytest

from simple_diffusion.configs import anyres_scenes
from simple_diffusion.core import images
from simple_diffusion.evaluation.networks import feature_network
from simple_diffusion.modes import evaluate, restore, sample, train
from tests.modes import test_modes

pytestmark = pytest.mark.slow  # whole runs


def tiny():
    config = anyres_scenes.get_config("ours")
    plain = test_modes.tiny()
    config.data.resolution = 16
    config.data.patches.update(smallest=16, largest=32)
    for key in ("channels", "blocks", "trunk_channels", "trunk_blocks", "trunk_heads"):
        config.model[key] = plain.model[key]
    config.model.update(base_channels=8, emb_channels=16, scan_unroll=1, place_bands=2)
    config.optimizer.warmup_steps = 1
    config.train.update(
        batch_size=8, total_steps=2, checkpoint_every_steps=2, sample_every_steps=0
    )
    config.sample.update(count=12, batch_size=12, steps=2, also_sizes=("16x24",))
    config.evaluate.update(
        count=12,
        batch_size=12,
        count_after_training=12,
        reference_features=16,
        networks=("thumbnail",),
    )
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train.run(tiny(), str(folder))
    return folder


def test_training_on_patches_ends_with_pictures_of_every_size(folder):
    wide = images.read_png(folder / "samples_16x24.png")
    square = images.read_png(folder / "samples.png")
    # Twelve columns, eight pixels wider each, shown at four times their size.
    assert wide.shape[0] == square.shape[0]
    assert wide.shape[1] - square.shape[1] == 12 * 8 * 4


@pytest.mark.parametrize("solver", ["ancestral", "heun"])
def test_any_size_and_class_can_be_sampled_with_guidance(folder, solver):
    config = tiny()
    config.sample.update(size="24x40", classes="boat", solver=solver, guidance=2.0)
    drawn = sample.run(config, str(folder))
    assert drawn.images.shape == (12, 24, 40, 3)
    assert set(drawn.labels) == {3}
    assert drawn.images.std() > 1


def test_windows_sample_an_image_larger_than_the_network_input(folder, capsys):
    config = tiny()
    config.sample.update(size="32x48", window=16, count=2, batch_size=1)
    drawn = sample.run(config, str(folder))
    assert drawn.images.shape == (2, 32, 48, 3)
    assert "15 windows an image" in capsys.readouterr().out


def test_evaluation_compares_with_real_images_of_the_size_of_the_samples(
    folder, monkeypatch
):
    config, seen = tiny(), []
    plain = feature_network._thumbnail
    monkeypatch.setattr(
        feature_network,
        "_thumbnail",
        lambda p, x: seen.append(x.shape[1:3]) or plain(p, x),
    )
    config.sample.size = "24x24"
    metrics = evaluate.run(config, str(folder))
    assert np.isfinite(list(metrics.values())).all()
    record = json.loads((folder / "metrics.json").read_text())
    assert record["size"] == [24, 24]
    assert set(seen) == {(24, 24)}  # real images and samples alike


def test_extra_sizes_have_their_own_references(folder):
    config = tiny()
    config.evaluate.also_sizes = ("24x24", "16x32")
    config.evaluate.metrics = ("fd",)
    metrics = evaluate.run(config, str(folder))
    count = config.evaluate.count
    names = [f"fd_thumbnail_{count}{size}" for size in ("", "@24x24", "@16x32")]
    assert set(names) <= set(metrics)
    assert len({metrics[name] for name in names}) == 3
    references = json.loads((folder / "metrics.json").read_text())["references"]
    assert [r["identity"]["size"] for r in references.values()] == [
        [16, 16],
        [24, 24],
        [16, 32],
    ]


def test_a_size_that_does_not_divide_names_the_nearest(folder):
    config = tiny()
    config.sample.size = "30x33"
    with pytest.raises(ValueError, match="sample.size=30x33.*nearest is 32x32"):
        sample.run(config, str(folder))


def test_a_model_trained_without_boxes_prints_a_note_at_another_size(tmp_path, capsys):
    config = test_modes.tiny()
    config.train.update(total_steps=1, checkpoint_every_steps=1, sample_every_steps=0)
    config.optimizer.warmup_steps = 0
    config.sample.update(count=2, batch_size=2)
    config.evaluate.update(count=2, batch_size=2, count_after_training=2)
    train.run(config, str(tmp_path))
    sample.run(config, str(tmp_path))
    assert "trained at 16x16 without data.patches" not in capsys.readouterr().out
    config.sample.size = "24x24"
    sample.run(config, str(tmp_path))
    assert "trained at 16x16 without data.patches" in capsys.readouterr().out


@pytest.mark.parametrize("window", [None, 16], ids=["whole", "windows"])
def test_a_photo_of_another_size_is_restored(folder, tmp_path, window):
    photo = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    images.write_png(tmp_path / "photo.png", photo)
    config = tiny()
    config.sample.update(batch_size=1)
    if window:
        config.sample.window = window
    config.restore.update(
        task="super_resolution",
        input=str(tmp_path / "photo.png"),
        output=str(tmp_path / "out"),
        degrade=True,
        steps=2,
    )
    result = restore.run(config, str(folder))
    found = images.read_png(result.folder / result.files["photo"][0])
    assert found.shape == (32, 48, 3)
    assert result.metrics["residual"] < 1e-5
