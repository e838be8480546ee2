"""Models of images that are not square, and of grey and transparent ones."""

import numpy as np
import pytest
from PIL import Image

import simple_diffusion
from simple_diffusion.core import images
from simple_diffusion.modes import evaluate, sample, train
from tests.modes import test_modes

SIZE = 16, 24


def icons(folder):
    """Writes transparent images in colours."""
    rng = np.random.default_rng(0)
    for k in range(20):
        pixels = np.zeros((20, 30, 4), np.uint8)
        pixels[4:16, 5:25] = (*rng.integers(0, 256, 3), 255)
        Image.fromarray(pixels).save(folder / f"{k}.png")


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 4])
def test_a_run_goes_from_training_to_export(channels, tmp_path):
    (tmp_path / "icons").mkdir()
    icons(tmp_path / "icons")
    config = test_modes.tiny()
    config.data.update(
        source=f"folder:{tmp_path / 'icons'}", resolution="16x24", channels=channels
    )
    config.train.update(total_steps=2, sample_every_steps=0)
    config.ema.power, config.ema.snapshot_every_steps = (), 0
    config.sample.update(count=4, batch_size=8, steps=2)
    config.evaluate.update(count=8, batch_size=8, count_after_training=8)
    workdir = tmp_path / "run"
    result = train.run(config, str(workdir))
    assert np.isfinite(list(result.metrics.values())).all()
    assert images.read_png(result.grid).ndim == 3

    sample.run(config, str(workdir))
    (first,) = (workdir / "samples").glob("00000_*.png")
    with Image.open(first) as image:
        assert image.size == SIZE[::-1]
        assert image.mode == {1: "L", 4: "RGBA"}[channels]
    evaluate.run(config, str(workdir))

    model = simple_diffusion.load(workdir)
    assert model.size == SIZE and model.shape == (*SIZE, channels)
    hole = np.zeros(SIZE, bool)
    hole[4:8, 4:8] = True
    photo = np.full((*SIZE, channels), 90, np.uint8)
    one = model.restore(photo, hole_mask=hole, steps=2)
    assert one.images.shape == (1, *SIZE, channels)
    assert (one.images[0][~hole] == 90).all()
    loaded = simple_diffusion.load(model.save(tmp_path / "export"))
    again = loaded.sample(count=2, steps=2, seed=1)
    assert again.shape == (2, *SIZE, channels)
    assert (again == model.sample(count=2, steps=2, seed=1)).all()
    assert loaded.encode(photo).shape == (1, *SIZE, channels)
