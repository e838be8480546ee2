"""The modes from the command line: one tiny run and all its results."""

import json
import zipfile

import numpy as np
import pytest
from etils import epath

from simple_diffusion.configs import quickstart
from simple_diffusion.core import images, run_lock
from simple_diffusion.modes import evaluate, sample, train
from simple_diffusion.training import loop, report


def tiny():
    config = quickstart.get_config()
    config.data.resolution = 16
    config.model.update(
        channels=(8,),
        blocks=(1,),
        trunk_channels=16,
        trunk_blocks=2,
        trunk_heads=2,
        base_channels=8,
        emb_channels=16,
        scan_unroll=1,
    )
    config.optimizer.warmup_steps = 2
    config.ema.power = (0.05, 0.1)
    config.ema.snapshot_every_steps = 2
    config.train.update(
        batch_size=8,
        total_steps=6,
        log_every_steps=2,
        checkpoint_every_steps=3,
        sample_every_steps=3,
    )
    config.sample.update(count=24, batch_size=16, steps=3)
    config.evaluate.update(
        count=24,
        batch_size=16,
        count_after_training=16,
        reference_features=32,
        networks=("thumbnail",),
    )
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, train.run(tiny(), str(folder))


def test_a_run_leaves_pictures_metrics_and_checkpoints(trained):
    folder, result = trained
    assert result.status == loop.COMPLETE
    assert int(result.state.step) == 6
    assert images.read_png(result.grid).std() > 1  # not one colour
    assert (folder / "grids" / "step_0000003.png").exists()
    assert list((folder / "tensorboard").iterdir())
    record = json.loads((folder / "metrics.json").read_text())
    assert record["step"] == 6
    assert record["metrics"] == result.metrics
    assert np.isfinite(list(result.metrics.values())).all()
    steps = [m["step"] for m in report.read_metrics(folder / "metrics.jsonl")]
    assert steps == [2, 4, 6]


def test_the_same_command_again_prints_that_the_run_is_complete(trained, capsys):
    folder, result = trained
    again = train.run(tiny(), str(folder))
    assert again.status == loop.ALREADY_COMPLETE
    assert again.metrics == result.metrics
    said = capsys.readouterr().out
    assert "complete" in said
    assert str(folder / "samples.png") in said


def test_changed_keys_of_a_run_are_named(trained, capsys):
    folder, _ = trained
    config = tiny()
    config.optimizer.learning_rate = 5e-4
    config.train.update(seed=3, total_steps=4)
    train.run(config, str(folder))
    said = capsys.readouterr().out.splitlines()
    changed = [line for line in said if line.startswith("changed since the last start")]
    assert [line.partition(": ")[2] for line in changed] == [
        "optimizer.learning_rate: 0.001 -> 0.0005",
        "train.seed: 0 -> 3",
        "train.total_steps: 6 -> 4",
    ]
    assert (
        "the run is complete: step 6; train.total_steps is 4 now, raise it to train on"
    ) in said


def test_a_second_training_in_a_workdir_is_an_error_and_writes_nothing(tmp_path):
    folder = epath.Path(tmp_path / "run")
    with run_lock.hold(folder, stop=print):
        with pytest.raises(ValueError, match="another training runs in it, process"):
            train.run(tiny(), str(folder))
        assert [path.name for path in folder.iterdir()] == [run_lock.FILE]


def test_a_training_has_the_lock_until_it_ends(trained):
    folder, _ = trained
    assert run_lock.read(epath.Path(folder)) is None


def test_a_workdir_that_cannot_be_written_names_the_flag(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write to .*Choose another --workdir"):
        train.run(tiny(), str(tmp_path / "file"))


def test_samples_are_written_for_people_and_for_evaluators(trained):
    folder, _ = trained
    config = tiny()
    config.sample.classes = "snowman,0"
    config.sample.count = 5
    result = sample.run(config, str(folder))
    place = result.grid.parent
    assert place.parent == folder and place.name.startswith("samples")
    names = sorted(p.name for p in place.iterdir())
    assert names[0] == "00000_snowman.png"
    assert len(names) == 5 + 2
    with np.load(place / "samples.npz") as stored:
        np.testing.assert_array_equal(stored["arr_0"], result.images)
        np.testing.assert_array_equal(stored["arr_1"], result.labels)
    assert zipfile.is_zipfile(place / "samples.npz")
    np.testing.assert_array_equal(images.read_png(place / names[0]), result.images[0])


@pytest.mark.slow
def test_an_image_does_not_depend_on_the_other_images(trained):
    folder, _ = trained
    config = tiny()
    config.sample.count = 20
    many = sample.run(config, str(folder)).images
    config.sample.count = 3
    config.sample.batch_size = 8
    few = sample.run(config, str(folder)).images
    # Another batch size may round the last bit differently before uint8.
    assert np.abs(many[:3].astype(int) - few.astype(int)).max() <= 1


@pytest.mark.parametrize("weights", ["params", "power_0.05", "power_0.07"])
@pytest.mark.slow
def test_every_kind_of_weights_can_be_sampled(trained, weights):
    folder, _ = trained
    config = tiny()
    config.sample.weights = weights
    config.sample.count = 8
    config.sample.batch_size = 8
    assert sample.run(config, str(folder)).images.shape == (8, 16, 16, 3)


@pytest.mark.slow
def test_a_model_guided_by_itself_is_the_model(trained):
    folder, _ = trained
    config = tiny()
    config.sample.update(count=8, batch_size=8, guidance=1.0)
    plain = sample.run(config, str(folder)).images
    config.sample.update(guidance=3.0, guidance_workdir=str(folder))
    guided = sample.run(config, str(folder)).images
    assert np.abs(plain.astype(int) - guided.astype(int)).max() <= 1


@pytest.mark.slow
def test_an_earlier_step_of_the_run_can_guide_it(trained):
    folder, _ = trained
    config = tiny()
    config.sample.update(count=8, batch_size=8, guidance=1.0)
    plain = sample.run(config, str(folder)).images
    config.sample.update(guidance=3.0, guidance_workdir=str(folder), guidance_step=3)
    guided = sample.run(config, str(folder)).images
    assert np.abs(plain.astype(int) - guided.astype(int)).max() > 1


@pytest.mark.slow
def test_evaluation_describes_what_was_measured(trained):
    folder, _ = trained
    metrics = evaluate.run(tiny(), str(folder))
    record = json.loads((folder / "metrics.json").read_text())
    assert record["solver"] == "dpmpp_2m"
    assert record["weights"] == "ema"
    assert metrics["held_out_images"] == 24
    assert "fd_thumbnail_24" in metrics


def test_sampling_a_folder_without_a_model_is_a_clear_error(tmp_path):
    with pytest.raises(ValueError, match="holds no trained model"):
        sample.run(tiny(), str(tmp_path))


def test_another_network_than_was_trained_names_the_arrays(trained):
    folder, _ = trained
    config = tiny()
    config.model.trunk_channels = 32
    with pytest.raises(RuntimeError, match="does not fit[\\s\\S]*trunk"):
        sample.run(config, str(folder))
