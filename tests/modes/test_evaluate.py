import dataclasses
import json

import numpy as np
import pytest
from etils import epath

from simple_diffusion.build import evaluation, feature_networks
from simple_diffusion.evaluation import evaluator, feature_bank
from simple_diffusion.modes import evaluate, train
from simple_diffusion.pipelines import programs
from simple_diffusion.pipelines.evaluation import comparison, extractor
from simple_diffusion.training import loop, sharding
from tests.modes.small_features import COUNT, files_config, recipe, write_folder

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_networks")]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    config = recipe()
    config.train.update(total_steps=2, sample_every_steps=0)
    config.optimizer.warmup_steps = 0
    train.run(config, str(folder))
    return folder


def run(config, folder):
    metrics = evaluate.run(config, str(folder))
    return metrics, json.loads((folder / "metrics.json").read_text())


def test_a_record_has_all_settings_that_its_metrics_depend_on(workdir):
    metrics, record = run(recipe(), workdir)
    assert set(metrics) >= {
        "held_out_loss",
        "fd_thumbnail_24",
        "kd_thumbnail_24",
        "precision_thumbnail_24",
        "accuracy_thumbnail_24",
    }
    assert record["metrics"] == metrics
    assert record["counts"]["fd_thumbnail_24"] == [24, 32]
    assert record["step"] == 2
    assert record["labels"] == "balanced"
    assert record["networks"] == {"thumbnail": {"digest": "0" * 12, "resize": "none"}}
    assert record["reference"]["n"] == 32
    assert record["reference"]["identity"]["split"] == "train"
    assert record["config"]["sample"]["steps"] == 2
    low, high = record["intervals"]["precision_thumbnail_24"]
    assert low <= metrics["precision_thumbnail_24"] <= high
    lines = (workdir / "evaluations.jsonl").read_text().splitlines()
    assert json.loads(lines[-1]) == record


def test_features_are_stored_and_nothing_is_sampled_twice(workdir, monkeypatch):
    first, _ = run(recipe(), workdir)
    monkeypatch.setattr(programs.Drawer, "__call__", lambda *_: pytest.fail("drawn"))
    config = recipe()
    config.evaluate.update(metrics=("fd", "kd"), report=True)  # of the same features
    assert run(config, workdir)[0]["fd_thumbnail_24"] == first["fd_thumbnail_24"]
    assert "fd_thumbnail_24" in (workdir / "report.html").read_text()


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("diffusion.schedule", "noise_d", 32),
        ("sample", "seed", 9),
        ("sample", "steps", 3),
        ("sample", "weights", "params"),
    ],
)
def test_changed_settings_sample_again(workdir, section, key, value):
    first, _ = run(recipe(), workdir)
    config = recipe()
    part = config
    for name in section.split("."):
        part = part[name]
    part[key] = value
    other, _ = run(config, workdir)
    assert other["fd_thumbnail_24"] != first["fd_thumbnail_24"]


def test_one_metric_that_cannot_be_measured_does_not_stop_the_others(workdir, capsys):
    config = recipe()
    config.evaluate.update(count=3)
    metrics, _ = run(config, workdir)
    record = json.loads((workdir / "metrics_3.json").read_text())
    assert "fd_thumbnail_3" in metrics and "precision_thumbnail_3" not in metrics
    (why,) = [note for note in record["notes"] if "precision_recall" in note]
    assert "got 3 generated features, need at least 6" in why
    assert why in capsys.readouterr().out


class Killed(Exception):
    pass


def test_an_interrupted_evaluation_samples_only_the_missing_images(
    workdir, monkeypatch
):
    config = recipe()
    config.sample.seed = 5
    monkeypatch.setattr(feature_bank, "_SAVE_SECONDS", 0.0)
    monkeypatch.setattr(feature_bank, "_SAVE_SHARE", 0)
    plain, starts = extractor.Extractor.__call__, []

    def failing(self, images, position):
        if isinstance(images, np.ndarray) and position >= 16:
            raise Killed
        return plain(self, images, position)

    monkeypatch.setattr(extractor.Extractor, "__call__", failing)
    with pytest.raises(Killed):
        run(config, workdir)
    monkeypatch.setattr(extractor.Extractor, "__call__", plain)
    draw = programs.Drawer.__call__

    def noted(self, weights, request, start=0):
        starts.append(start)
        yield from draw(self, weights, request, start)

    monkeypatch.setattr(programs.Drawer, "__call__", noted)
    resumed, _ = run(config, workdir)
    assert starts == [16]
    for path in (workdir / "evaluation").glob("features_*.npz"):
        path.unlink()
    # Equal up to the last bit: sums were taken in other groups.
    assert run(config, workdir)[0] == pytest.approx(resumed, rel=1e-9, abs=1e-12)
    assert starts == [16, 0]


@pytest.mark.parametrize("labels", ["as_data", "boat"])
def test_classes_have_the_requested_distribution(workdir, monkeypatch, labels):
    config, seen = recipe(), []
    config.evaluate.update(labels=labels, reference_count=96, reference_features=96)
    draw = programs.Drawer.__call__

    def noted(self, weights, request, start=0):
        seen.append(np.asarray(request.label))
        yield from draw(self, weights, request, start)

    monkeypatch.setattr(programs.Drawer, "__call__", noted)
    _, record = run(config, workdir)
    identity = record["reference"]["identity"]
    if labels == "boat":
        assert set(seen[0].tolist()) == {3}
        assert identity["label"] == 3
        assert 3 < record["reference"]["n"] < 20  # the boats among 96
    else:
        name = f"features_{record['reference']['hash']}.npz"
        path = workdir / "evaluation" / name
        np.testing.assert_array_equal(seen[0], feature_bank.load(path).labels[:COUNT])


def test_a_class_that_does_not_exist_is_named(workdir):
    config = recipe()
    config.evaluate.labels = "bo"
    with pytest.raises(ValueError, match="evaluate.labels has 'bo'"):
        run(config, workdir)
    config.evaluate.labels = "boat,tree"
    with pytest.raises(ValueError, match="must be balanced, as_data or one class"):
        run(config, workdir)


def test_patch_metrics_have_their_own_names_and_patches_must_fit(workdir):
    config = recipe()
    config.evaluate.patch = 6
    metrics, record = run(config, workdir)
    assert "patch6_fd_thumbnail_24" in metrics
    assert record["patch"] == 6
    config.evaluate.patch = 17
    with pytest.raises(ValueError, match="evaluate.patch=17 does not fit into .*16x16"):
        run(config, workdir)


def test_features_of_another_version_of_a_network_are_not_used(
    workdir, tmp_path, monkeypatch
):
    config = recipe()
    config.evaluate.reference = f"statistics:{tmp_path / 'scenes.npz'}"
    run(config, workdir)
    plain = feature_networks.load_networks

    def changed(*args):
        return [dataclasses.replace(n, version=n.version + 1) for n in plain(*args)]

    monkeypatch.setattr(feature_networks, "load_networks", changed)
    message = "networks: .*, 1.* in the file, .*, 2.* expected"
    with pytest.raises(ValueError, match=message):
        run(config, workdir)


def test_statistics_of_other_data_are_refused(workdir, tmp_path):
    config = recipe()
    config.evaluate.reference = f"statistics:{tmp_path / 'scenes.npz'}"
    made, _ = run(config, workdir)
    assert (tmp_path / "scenes.npz").exists()
    assert run(config, workdir)[0] == made
    config.data.resize = "antialias"
    message = "resize: 'area' in the file, 'antialias' expected"
    with pytest.raises(ValueError, match=message):
        run(config, workdir)


def test_each_size_has_a_file_of_statistics(workdir, tmp_path):
    config = recipe()
    config.evaluate.update(also_sizes=("8x8",), metrics=("fd",))
    config.evaluate.reference = f"statistics:{tmp_path / 'scenes.npz'}"
    with pytest.raises(ValueError, match="write {size} into their name"):
        run(config, workdir)
    config.evaluate.reference = f"statistics:{tmp_path}/scenes_{{size}}.npz"
    metrics, _ = run(config, workdir)
    assert "fd_thumbnail_24@8x8" in metrics
    names = sorted(p.name for p in tmp_path.glob("*.npz"))
    assert names == ["scenes_16x16.npz", "scenes_8x8.npz"]


@pytest.mark.parametrize(
    "change",
    [
        dict(labels="boat"),
        dict(labels="as_data"),
        dict(reference_count=4),
        dict(also_sizes=("8x8",)),
    ],
)
def test_settings_that_files_do_not_support_are_refused(
    workdir, tmp_path, photos, change
):
    config = recipe()
    config.evaluate.reference = write_folder(tmp_path / "a", photos)
    config.evaluate.update(change)
    (key,) = change
    with pytest.raises(ValueError, match=f"evaluate.{key}=.* needs evaluate.reference"):
        run(config, workdir)


def test_comparing_files_keeps_the_results_of_a_model(workdir, tmp_path, photos):
    _, record = run(recipe(), workdir)
    kept = workdir / "evaluation" / f"features_{record['reference']['hash']}.npz"
    spec = write_folder(tmp_path / "a", photos)
    evaluate.run(files_config(spec, spec), str(workdir))
    assert kept.exists()
    assert json.loads((workdir / "metrics.json").read_text()) == record


def test_old_features_are_removed(workdir):
    place = workdir / "evaluation"
    for k in range(12):
        (place / f"features_{k:012d}.npz").write_text("old")
    _, record = run(recipe(), workdir)
    assert (place / f"features_{record['reference']['hash']}.npz").exists()
    assert len(list(place.glob("features_*.npz"))) <= 8 + 2


def test_a_folder_is_compared_with_the_data_of_a_run(workdir, tmp_path, photos):
    names = ["boat", "tree"] * 6
    config = files_config(write_folder(tmp_path / "a", photos, names), "data")
    config.evaluate.metrics = ("fd", "accuracy")
    metrics = evaluate.run(config, str(workdir))
    assert set(metrics) == {"fd_thumbnail_12", "accuracy_thumbnail_12"}
    # Without subfolders the classes of the images are unknown.
    config.evaluate.samples = write_folder(tmp_path / "b", photos)
    assert set(evaluate.run(config, str(workdir))) == {"fd_thumbnail_12"}
    record = json.loads((workdir / "metrics.json").read_text())
    assert record["step"] == 2  # that of the model stays


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(reference="folder:/none"), "evaluate.reference=.*does not exist"),
        (dict(reference="npz:/none.npz"), "evaluate.reference=.*does not exist"),
        (dict(labels="bo"), "evaluate.labels has 'bo'"),
        (
            dict(reference_count=2**70),
            "reference_count=1180591620717411303424 must be in the range",
        ),
        (dict(patch=17), "evaluate.patch=17 does not fit"),
        (dict(samples="folder:/none"), "is for --mode evaluate; a training evaluates"),
    ],
)
def test_invalid_evaluation_settings_are_found_before_a_training(
    tmp_path, monkeypatch, change, message
):
    monkeypatch.setattr(loop, "train", lambda *_, **__: pytest.fail("it was trained"))
    config = recipe()
    config.evaluate.update(change)
    with pytest.raises(ValueError, match=message):
        train.run(config, str(tmp_path))


def test_unreadable_weights_are_found_before_a_training(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "train", lambda *_, **__: pytest.fail("it was trained"))
    config = recipe()
    config.evaluate.networks = ("inception",)
    config.evaluate.inception_weights = str(tmp_path / "inception.npz")
    np.savez(tmp_path / "inception.npz", some=np.zeros(3))
    with pytest.raises(ValueError, match="inception.npz"):
        train.run(config, str(tmp_path / "run"))


def test_notes_belong_to_one_evaluation(tmp_path, capsys):
    mesh = sharding.make_mesh(-1)
    networks = feature_networks.load_networks(recipe(), None, None, None)
    compared = comparison.Comparison(
        evaluation.read_plan(recipe()), networks, None, mesh, epath.Path(tmp_path)
    )
    compared.note("of the first")
    first = compared.record()
    compared.clear_notes()
    for _ in range(2):
        compared.note("of both")
    assert first["notes"] == ["of the first"]
    assert compared.record()["notes"] == ["of both"]
    assert capsys.readouterr().out.count("of both") == 1


def test_patch_corners_depend_only_on_the_position():
    space = np.array([11, 5])
    every = extractor.patch_corners(0, 0, 200, space)
    np.testing.assert_array_equal(
        every[64:], extractor.patch_corners(0, 64, 136, space)
    )
    assert (every.min(0) == 0).all() and (every.max(0) == space - 1).all()
    assert (every != extractor.patch_corners(1, 0, 200, space)).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(reference="nonsense"), "reference='nonsense' must be data, statistics:"),
        (dict(reference="folder:/none"), "evaluate.reference=.*does not exist"),
        (
            dict(reference="statistics:/bin/sh"),
            "reference=statistics:/bin/sh: .*is not",
        ),
        (dict(samples="nonsense"), "samples='nonsense' must be model, folder:PATH"),
        (dict(samples="folder:/none"), "evaluate.samples=folder:/none: .* not exist"),
        (dict(labels="bo"), "evaluate.labels has 'bo'"),
        (dict(patch=17), "evaluate.patch=17 does not fit"),
        (dict(reference_count=2**70), "is more than the .* images of"),
        (dict(also_sizes=("15x15",)), "evaluate.also_sizes=15x15"),
    ],
)
def test_invalid_settings_are_found_before_anything_that_takes_long(
    workdir, monkeypatch, change, message
):
    def too_late(*_, **__):
        pytest.fail("it began")

    # What trains a classifier, measures the loss, samples, or reads the reference.
    monkeypatch.setattr(feature_networks, "load_networks", too_late)
    monkeypatch.setattr(evaluator.Evaluator, "held_out_loss", too_late)
    monkeypatch.setattr(comparison.Comparison, "features_of", too_late)
    config = recipe()
    config.evaluate.update(change)
    with pytest.raises(ValueError, match=message):
        run(config, workdir)


def test_a_reference_is_read_before_the_loss_is_measured(workdir, tmp_path, photos):
    config = recipe()
    spec = write_folder(tmp_path / "a", photos)
    (tmp_path / "a" / "007.png").write_bytes(b"no image")
    config.evaluate.reference = spec
    with pytest.raises(ValueError, match="007.png"), pytest.MonkeyPatch.context() as m:
        late = "the loss was measured first"
        m.setattr(evaluation, "build_evaluator", lambda *_: pytest.fail(late))
        run(config, workdir)
