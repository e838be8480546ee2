"""A model that is trained on captions: trained, sampled, exported, restored with."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import simple_diffusion
from simple_diffusion.build import recipes
from simple_diffusion.configs import conditions
from simple_diffusion.modes import evaluate, restore, sample, train
from simple_diffusion.pipelines import runs
from tests.build.every_key import tiny_network

pytestmark = pytest.mark.slow
PROMPTS = "a red boat; two green trees, on the left"


def text_config():
    config = recipes.load("scenes_text")
    config.data.resolution = 16
    with config.unlocked():
        config.model = tiny_network("uvit")
    config.model.patching = "haar_1"
    config.conditions.text = conditions.text(16)
    config.conditions.text.update(width=8, heads=2, depth=1)
    config.train.update(batch_size=8, total_steps=4, log_every_steps=2)
    config.train.update(checkpoint_every_steps=2, sample_every_steps=0)
    config.sample.update(count=4, batch_size=4, steps=2, prompts=PROMPTS)
    config.evaluate.update(count=16, batch_size=8, count_after_training=16)
    config.evaluate.update(reference_count=32, networks=("thumbnail",))
    return config


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    result = train.run(text_config(), str(folder))
    assert result.status == "complete"
    return folder


def config_of(workdir, mode="sample"):
    return runs.load_config_for(mode, runs.files.resolve_folder(str(workdir)))


def test_a_run_keeps_its_words(workdir):
    record = json.loads((workdir / "tokenizer.json").read_text())
    assert {"boat", "red", "left"} <= record["model"]["model"]["vocab"].keys()


def test_prompts_name_the_files_and_are_in_them(workdir):
    config = config_of(workdir)
    config.sample.output = str(workdir / "by_prompt")
    result = sample.run(config, str(workdir))
    names = sorted(path.name for path in (workdir / "by_prompt").glob("0*.png"))
    assert names[:2] == [
        "00000_a_red_boat.png",
        "00001_two_green_trees__on_the_left.png",
    ]
    with Image.open(workdir / "by_prompt" / names[3]) as image:
        assert image.text["prompt"] == "two green trees, on the left"
        assert image.text["steps"] == "2" and image.text["step"] == "4"
    with np.load(workdir / "by_prompt" / "samples.npz") as stored:
        assert stored["prompts"].tolist() == 2 * PROMPTS.split("; ")
        assert json.loads(str(stored["settings"]))["seed"] == 0
        np.testing.assert_array_equal(stored["arr_0"], result.images)


def test_an_image_depends_on_its_prompt_and_its_number_alone(workdir):
    model = simple_diffusion.load(workdir)
    one, two = model.sample(["a red boat", "a blue car"], guidance=3.0)
    (again,) = model.sample(["a red boat"], guidance=3.0)
    np.testing.assert_array_equal(one, again)
    other = model.sample(["a red boat", "two yellow fish"], guidance=3.0)
    np.testing.assert_array_equal(other[0], one)
    assert (other[1] != two).any()
    nothing = model.sample([""], guidance=3.0)
    assert (nothing[0] != one).any()


def test_the_denoiser_reads_a_prompt(workdir):
    model = simple_diffusion.load(workdir)
    z_t = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    found = [
        np.asarray(model.denoiser(prompt, guidance=1.0)(z_t, jnp.zeros(2)))
        for prompt in ("a red boat", ["a red boat", "two green trees"], None, "")
    ]
    rounding = np.abs(found[0][0] - found[1][0]).max()  # the same prompt and noise
    assert rounding < 1e-5
    assert np.abs(found[0][1] - found[1][1]).max() > 10 * rounding
    # An empty prompt is no prompt.
    np.testing.assert_allclose(found[2], found[3], atol=1e-5)


def test_an_export_has_the_words_and_draws_the_same(workdir, tmp_path):
    model = simple_diffusion.load(workdir)
    exported = simple_diffusion.load(model.save(tmp_path / "export"))
    prompts = ["a red boat", "three balloons"]
    np.testing.assert_array_equal(exported.sample(prompts), model.sample(prompts))


def test_it_resumes_bit_for_bit(workdir, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(workdir, copied)
    shutil.rmtree(copied / "checkpoints" / "4")
    for name in ("samples.png", "metrics.json"):
        (copied / name).unlink()
    assert train.run(text_config(), str(copied)).status == "complete"
    picture = (workdir / "samples.png").read_bytes()
    assert (copied / "samples.png").read_bytes() == picture


def test_it_is_evaluated_with_captions_of_held_out_images(workdir):
    config = config_of(workdir, "evaluate")
    config.evaluate.update(metrics=("fd", "conditions"), reader_steps=2)
    metrics = evaluate.run(config, str(workdir))
    assert metrics["held_out_images"] == 16
    assert np.isfinite(metrics["fd_thumbnail_16"])
    record = json.loads((workdir / "metrics.json").read_text())
    for name in ("object", "colour", "count", "position"):
        assert 0 <= metrics[f"accuracy_{name}"] <= 1
        beside = record["baselines"][f"accuracy_{name}"]
        assert set(beside) == {"real images", "most frequent value"}
    assert (workdir / "evaluation" / "attribute_reader_16x16.npz").exists()


def test_it_restores_without_a_prompt(workdir, tmp_path):
    photo = np.full((16, 16, 3), 200, np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    config = config_of(workdir, "restore")
    config.restore.update(input=str(tmp_path / "photo.png"), hole_mask="box:4x4")
    config.restore.update(steps=3)
    result = restore.run(config, str(workdir))
    assert result.failed == {}


def test_in_python_a_prompt_may_hold_the_sign_that_separates_them(workdir):
    assert len(simple_diffusion.load(workdir).sample(["a boat; a car"])) == 1


def test_captions_of_mirrored_images_need_a_decision(workdir):
    config = text_config()
    config.data.flip_captions = None
    with pytest.raises(ValueError, match="data.flip_captions=swap"):
        train.run(config, str(workdir))
