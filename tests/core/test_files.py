"""Workdirs in buckets, with a bucket in memory."""

import json
import time

import fsspec
import numpy as np
import pytest
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem
from ml_collections import ConfigDict

from simple_diffusion.build import recipes
from simple_diffusion.core import files, run_lock
from simple_diffusion.pipelines import image_grids, runs
from simple_diffusion.training import report


@pytest.fixture
def bucket(monkeypatch):
    """Keeps every gs:// path in memory; returns the folder of a run there."""
    for name in ("gs", "gcs"):
        fsspec.register_implementation(name, Memory, clobber=True)
    monkeypatch.setattr("etils.epath.gpath._is_tf_installed", lambda: False)
    monkeypatch.setattr(files, "_installed", lambda module: True)
    Memory.store.clear()
    return files.resolve_folder("gs://bucket/run")


class Memory(MemoryFileSystem):
    protocol = "gs"
    store: dict = {}
    pseudo_dirs = [""]

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("gs://", "/"))


def test_pictures_metrics_and_records_can_be_in_a_bucket(bucket):
    image_grids.write_grid(
        bucket / "samples.png", np.zeros((4, 8, 8, 3), np.uint8), np.arange(4)
    )
    files.write_metrics(bucket, {"step": 3})
    assert files.read_metrics(bucket) == {"step": 3}
    assert (bucket / "samples.png").read_bytes().startswith(b"\x89PNG")


def test_a_report_in_a_bucket_grows_and_survives_a_restart(bucket):
    metrics = {
        "loss": 1.0,
        "grad_norm": 1.0,
        "update_norm": 1.0,
        "param_norm": 1.0,
        "learning_rate": 1.0,
        "finite": True,
        "skipped": 0,
        "loss_bin_sum": np.zeros(10),
        "loss_bin_count": np.ones(10),
        "examples": 10,
    }

    def log(first, last):
        log = report.Report(bucket, total_steps=9, every=1, tensorboard=False)
        log.begin(first)
        for step in range(first + 1, last + 1):
            log.record(step, metrics, 0.0)

    log(0, 5)
    log(3, 6)  # steps 4 and 5 were lost and are made again
    lines = (bucket / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]


def test_records_emptied_by_a_full_disk_do_not_stop_a_run(tmp_path, capsys):
    folder = files.resolve_folder(str(tmp_path))
    for name in (files.CONFIG, files.METRICS):
        (folder / name).write_text("")
    assert files.read_metrics(folder) == {}
    now = ConfigDict({"data": {"source": "scenes"}})
    runs.save_config(now, folder, ("moon",))
    said = capsys.readouterr().out
    assert f"{folder / files.CONFIG} is damaged and was skipped" in said
    assert f"{folder / files.METRICS} is damaged and was skipped" in said
    assert runs.load_config(folder).data.source == "scenes"
    assert not [path.name for path in tmp_path.iterdir() if "partial" in path.name]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("~", "/home/me"),
        ("~/run", "/home/me/run"),
        ("folder:~/a b", "folder:/home/me/a b"),
        ("/a/~/b", "/a/~/b"),
        ("gs://bucket/~run", "gs://bucket/~run"),
        ("box:12x12", "box:12x12"),
        ("", ""),
        ("a\n~", "a\n~"),
    ],
)
def test_the_home_folder_is_that_of_a_leading_tilde(text, expected, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert files.expand_home(text) == expected


def test_a_workdir_may_be_in_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert str(files.resolve_folder("~/run")) == "/home/me/run"


def test_the_lock_of_a_bucket_is_held_renewed_and_released(bucket, monkeypatch):
    monkeypatch.setattr(run_lock, "_SETTLE_SECONDS", 0.01)
    monkeypatch.setattr(run_lock, "RENEW_SECONDS", 0.01)
    with run_lock.hold(bucket, stop=print):
        deadline = time.monotonic() + 20
        while run_lock.read(bucket).count < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(run_lock.LockedError, match="--workdir=gs://bucket/run"):
            with run_lock.hold(bucket, stop=print):
                pass
    assert run_lock.read(bucket) is None


def test_a_key_that_is_newer_than_the_run_did_not_change(tmp_path, capsys):
    folder = files.resolve_folder(str(tmp_path))
    config = recipes.defaults()
    runs.save_config(config, folder, ())
    stored = files.read_json(folder / files.CONFIG)
    del stored["train"]["skips_allowed"]
    files.write_json(folder / files.CONFIG, stored)
    config.train.batch_size = 7
    config.model.channels = (3,)
    runs.save_config(config, folder, ())
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[2] for line in said] == [
        f"model.channels: {stored['model']['channels']} -> [3]",
        "train.batch_size: 512 -> 7",
    ]


def test_locations_other_than_folders_and_google_buckets_are_refused():
    with pytest.raises(ValueError, match="must be a folder or gs://BUCKET/PATH"):
        files.resolve_folder("s3://bucket/run")


def test_a_package_that_buckets_need_is_named(monkeypatch):
    monkeypatch.setattr(files, "_installed", lambda module: False)
    with pytest.raises(ValueError, match="pip install google-cloud-storage"):
        files.resolve_folder("gs://bucket/run")


def test_a_folder_is_a_folder(tmp_path):
    assert files.resolve_folder(str(tmp_path)) == epath.Path(tmp_path)
