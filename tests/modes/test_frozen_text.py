"""A model on features of a frozen text encoder: prepared, trained, drawn from."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import simple_diffusion
from simple_diffusion.build import recipes
from simple_diffusion.configs import conditions
from simple_diffusion.modes import prepare, sample, train
from simple_diffusion.pipelines import runs
from tests.build.every_key import tiny_network
from tests.build.text import text_encoder_folders

pytestmark = pytest.mark.slow
CAPTIONS = ("a red boat", "two green trees on the hill", "a house", "boats, birds")
ENCODER = "conditions.text_features.encoder"


def write_pictures(folder):
    """Writes eight pictures, each with a caption in a text file beside it."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for k in range(8):
        pixels = random.integers(0, 256, (20, 24, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}.png")
        (folder / f"{k}.txt").write_text(CAPTIONS[k % 4])
    return folder


def config_for(records, encoder):
    config = recipes.load("quickstart")
    config.data.update(source=f"records:{records}", num_classes=0, resolution=8)
    config.data.update(flip_captions="keep", holdout_fraction=0.4)
    with config.unlocked():
        config.model = tiny_network("uvit")
    config.conditions.text_features = conditions.text_features(
        str(encoder), features=32, length=24, width=8
    )
    config.train.update(batch_size=8, total_steps=2, log_every_steps=1)
    config.train.update(checkpoint_every_steps=2, sample_every_steps=0)
    config.sample.update(count=2, batch_size=8, steps=2, prompts="a red boat; a house")
    config.evaluate.update(count_after_training=4, reference_count=4)
    config.evaluate.update(networks=("thumbnail",), batch_size=8)
    return config


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return text_encoder_folders.write_t5(tmp_path_factory.mktemp("encoders") / "t5")


@pytest.fixture(scope="module")
def records(tmp_path_factory, encoder):
    folder = tmp_path_factory.mktemp("data")
    pictures, output = write_pictures(folder / "pictures"), folder / "records"
    flags = ["--text_length=20", "--text_dtype=float32", "--shard_megabytes=0.003"]
    prepare.main(
        [
            *(f"--input=folder:{pictures}", f"--output={output}"),
            *(f"--text_encoder={encoder}", *flags),
        ]
    )
    return output


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, records, encoder):
    folder = tmp_path_factory.mktemp("run")
    assert train.run(config_for(records, encoder), str(folder)).status == "complete"
    return folder


def test_a_run_keeps_what_its_encoder_was(workdir):
    found = json.loads((workdir / "text_encoder.json").read_text())
    assert (found["name"], found["features"], found["length"]) == ("t5", 32, 20)
    assert len(found["digest"]) == 64


def test_prompts_are_sampled_by_the_encoder(workdir):
    config = runs.load_config_for("sample", runs.files.resolve_folder(str(workdir)))
    config.sample.output = str(workdir / "by_prompt")
    sample.run(config, str(workdir))
    names = sorted(path.name for path in (workdir / "by_prompt").glob("0*.png"))
    assert names == ["00000_a_red_boat.png", "00001_a_house.png"]
    with np.load(workdir / "by_prompt" / "samples.npz") as stored:
        assert stored["prompts"].tolist() == ["a red boat", "a house"]


def test_an_export_reads_the_encoder_at_another_place(
    workdir, encoder, tmp_path, monkeypatch
):
    model = simple_diffusion.load(workdir)
    expected = model.sample(["a red boat", "a house"], guidance=3.0)
    assert (expected[0] != expected[1]).any()
    exported = simple_diffusion.load(model.save(tmp_path / "export"))
    moved = tmp_path / "moved"
    shutil.copytree(encoder, moved)
    section = exported.config.conditions.text_features
    assert section.encoder == str(encoder)
    section.encoder = str(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=f"{ENCODER}=.*nowhere does not exist here"):
        exported.sample(["a red boat"])
    # An empty prompt is none, for which no encoder is needed.
    assert exported.sample([""]).shape == (1, 8, 8, 3)
    section.encoder = str(moved)
    found = exported.sample(["a red boat", "a house"], guidance=3.0)
    np.testing.assert_array_equal(found, expected)


def test_it_is_sampled_with_the_features_of_held_out_images(workdir):
    config = runs.load_config_for("sample", runs.files.resolve_folder(str(workdir)))
    config.sample.update(output=str(workdir / "held_out"), prompts=None)
    assert sample.run(config, str(workdir)).images.shape == (2, 8, 8, 3)
