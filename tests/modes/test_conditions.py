"""A model with all conditions at once: trained, resumed, sampled, exported."""

import jax
import numpy as np
import pytest
from PIL import Image

import simple_diffusion
from simple_diffusion.build import recipes
from simple_diffusion.configs import conditions
from simple_diffusion.data.scenes import scenes
from simple_diffusion.modes import sample, train
from simple_diffusion.pipelines import runs
from tests.build.every_key import tiny_network

pytestmark = pytest.mark.slow
SIDE = 16
HOLE = np.zeros((SIDE, SIDE), bool)
HOLE[4:12, 2:9] = True
RANDOM = np.random.default_rng(0)
VALUES = {
    "text": {"prompts": ["a red boat"]},
    "layout": {"layout": [{"class": "boat", "box": [0.2, 0.2, 0.8, 0.6]}]},
    "semantic": {"map": {"semantic": RANDOM.integers(0, 18, (SIDE, SIDE))}},
    "low_resolution": {
        "low_resolution": RANDOM.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    },
    "inpainting": {
        "image": RANDOM.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8),
        "hole_mask": HOLE,
    },
    "image": {"map": {"image": RANDOM.random((SIDE, SIDE), np.float32)}},
}


def all_conditions(steps):
    config = recipes.load("quickstart")
    config.data.update(resolution=SIDE, num_classes=0, flip_captions="swap")
    with config.unlocked():
        config.model = tiny_network("uvit")
    config.model.patching = "haar_1"
    classes = len(scenes.CATEGORY_NAMES)
    config.conditions.update(
        text=conditions.text(12),
        layout=conditions.layout(classes),
        semantic=conditions.semantic(classes),
        low_resolution=conditions.low_resolution(2),
        inpainting=conditions.inpainting(),
        image=conditions.image("depth"),
    )
    config.conditions.text.update(width=8, heads=2, depth=1, pooled=True, drop=0.2)
    config.conditions.layout.width = 8
    config.conditions.low_resolution.augmentation = 0.5
    config.conditions.inpainting.drop = 0.3
    config.train.update(batch_size=8, total_steps=steps, log_every_steps=2)
    config.train.update(checkpoint_every_steps=2, sample_every_steps=0)
    config.optimizer.update(warmup_steps=1, decay="constant")
    config.sample.update(count=3, batch_size=4, steps=2)
    config.evaluate.update(count=16, batch_size=8, count_after_training=16)
    config.evaluate.update(reference_count=32, networks=("thumbnail",))
    return config


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("conditions")
    assert train.run(all_conditions(4), str(folder)).status == "complete"
    return folder


@pytest.fixture(scope="module")
def model(workdir):
    return simple_diffusion.load(workdir)


def both_maps(values):
    """The values of several conditions together."""
    joined = {}
    for name in values:
        for key, value in VALUES[name].items():
            joined[key] = {**joined.get(key, {}), **value} if key == "map" else value
    return joined


def test_resuming_with_every_condition_is_bit_exact(workdir, model, tmp_path):
    train.run(all_conditions(2), str(tmp_path))
    resumed = train.run(all_conditions(4), str(tmp_path))
    assert resumed.status == "complete"
    again = simple_diffusion.load(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, model.params, again.params)


def test_a_grid_shows_held_out_conditions_beside_the_samples(workdir):
    with Image.open(workdir / "samples.png") as grid:
        # Boxes, classes, the small image, the hole, depth, and the sample itself.
        assert grid.width > 6 * SIDE
    config = runs.load_config_for("sample", runs.files.resolve_folder(str(workdir)))
    config.sample.output = str(workdir / "held_out")
    result = sample.run(config, str(workdir))
    assert result.images.shape == (3, SIDE, SIDE, 3)
    with np.load(workdir / "held_out" / "samples.npz") as stored:
        assert all(" " in text for text in stored["prompts"])


def test_each_condition_changes_the_sample(model):
    # The difference of one update is small: far below one of 255 levels.
    denoise = {name: model.denoiser(**both_maps([name])) for name in VALUES}
    denoise["nothing"] = model.denoiser()
    z = jax.random.normal(jax.random.key(0), (1, SIDE, SIDE, 3))
    found = {name: np.asarray(f(z, 0 * z[:, 0, 0, 0])) for name, f in denoise.items()}
    for name in VALUES:
        assert np.abs(found[name] - found["nothing"]).max() > 1e-6, name


def test_weight_0_removes_a_condition_and_weight_1_is_no_guidance(model):
    everything = both_maps(VALUES)
    rest = both_maps(name for name in VALUES if name != "layout")
    without = model.sample(guidance=3.0, **rest)
    removed = model.sample(guidance=3.0, guidance_of={"layout": 0.0}, **everything)
    np.testing.assert_array_equal(without, removed)
    plain = model.sample(guidance=1.0, **everything)
    ones = dict.fromkeys(VALUES, 1.0)
    same = model.sample(guidance=3.0, guidance_of=ones, **everything)
    np.testing.assert_array_equal(plain, same)


def test_known_pixels_stay_bit_by_bit(model):
    (image,) = model.sample(**VALUES["inpainting"])
    photo = VALUES["inpainting"]["image"]
    np.testing.assert_array_equal(image[~HOLE], photo[~HOLE])
    assert not np.array_equal(image[HOLE], photo[HOLE])


def test_an_export_samples_the_same_and_has_no_held_out_examples(model, tmp_path):
    exported = simple_diffusion.load(model.save(tmp_path / "export"))
    given = both_maps(["text", "layout", "semantic"])
    np.testing.assert_array_equal(
        model.sample(seed=3, **given), exported.sample(seed=3, **given)
    )
    with pytest.raises(ValueError, match=r"sample\.prompts or sample\.layout.*must be"):
        exported.sample()
