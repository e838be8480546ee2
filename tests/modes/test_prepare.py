import itertools
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from simple_diffusion.data.errors import DataError
from simple_diffusion.data.records import encoding, ordered_pool, preparation, shards
from simple_diffusion.data.sources import catalogue
from simple_diffusion.modes import prepare
from tests.data import pictures
from tests.data.sources import test_tfds_source

MANIFEST = shards.MANIFEST


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return pictures.make(tmp_path_factory.mktemp("images"), bad=(7, 23))


@pytest.fixture(scope="module")
def native(images, tmp_path_factory):
    """A prepared output that no test changes."""
    return pictures.prepare(images, tmp_path_factory.mktemp("native") / "records")


def test_the_manifest_counts_stored_and_skipped_images(images, native):
    found = pictures.manifest_of(native)
    assert found["classes"] == {"cat": 14, "dog": 12, "dog-like": 12}
    assert found["count"] == 38 == sum(shard["count"] for shard in found["shards"])
    assert set(found["skipped"]) == {"dog/007.png", "dog-like/023.png"}
    assert len(found["shards"]) > 3
    files = {shard["file"] for shard in found["shards"]} | {"names", MANIFEST}
    assert set(os.listdir(native)) == files
    for shard, after in itertools.pairwise(found["shards"]):
        assert shard["end"] == after["first"]
        assert (native / shard["file"]).stat().st_size == shard["bytes"]


def test_an_image_that_cannot_be_read_is_named_and_counted(tmp_path, capsys):
    images = pictures.make(tmp_path / "images", bad=(7, 23))
    (images / "cat" / "gone.jpg").symlink_to("nowhere")
    root = pictures.prepare(images, tmp_path / "records")
    said = capsys.readouterr().out
    assert "skipped an image (1 so far): cat/gone.jpg: No such file" in said
    assert "skipped an image (3 so far): dog/007.png: " in said
    assert (
        pictures.manifest_of(root)["skipped"]["cat/gone.jpg"]
        == "No such file or directory"
    )


def test_without_a_readable_image_there_is_no_dataset(tmp_path):
    images = pictures.make(tmp_path / "images", 3, bad=(0, 1, 2))
    with pytest.raises(DataError, match=r"none of 3 images can be read, such as cat/"):
        pictures.prepare(images, tmp_path / "records")
    assert not (tmp_path / "records" / MANIFEST).exists()


@pytest.mark.parametrize("size", [None, 16])
def test_the_number_of_workers_changes_no_byte(images, tmp_path, size):
    reduced = dict(resize="area", quality=90) if size else {}
    for workers in (1, 3, 8):
        root = tmp_path / str(workers)
        pictures.prepare(images, root, workers=workers, size=size, **reduced)
    one, *others = (pictures.contents(tmp_path / str(n)) for n in (1, 3, 8))
    assert all(one == other for other in others)


# Runs the command with a pause at each image, so that a test can kill it.
SLOWLY = """
import sys, time
from simple_diffusion.data.records import encoding
from simple_diffusion.modes import prepare
encode = encoding.Settings.encode
def slow(self, *args):
    time.sleep(float(sys.argv[1]))
    return encode(self, *args)
encoding.Settings.encode = slow
prepare.main(sys.argv[2:])
"""


def command(images, root, *flags):
    flags = [*flags, f"--shard_megabytes={pictures.SMALL_SHARDS}"]
    return [f"--input=folder:{images}", f"--output={root}", *flags]


def start(pause, flags):
    line = [sys.executable, "-c", SLOWLY, str(pause), *flags]
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for(path, process):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)


def test_killed_and_restarted_writes_the_same_files_as_one_run(
    images, native, tmp_path
):
    root = tmp_path / "records"
    kept = {}
    for shard in ("records-00001", "records-00003"):
        process = start(0.05, command(images, root, "--workers=2"))
        wait_for(root / f"{shard}.array_record", process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (root / MANIFEST).exists()
        with pytest.raises(DataError, match="is not finished"):
            catalogue.open_source(f"records:{root}")
        for name, inode in kept.items():
            assert (root / name).stat().st_ino == inode
        done = [p.stem for p in (root / "unfinished").glob("records-*.json")]
        kept = {name: (root / name).stat().st_ino for name in done}
    assert len(kept) >= 3
    pictures.prepare(images, root)
    for name, inode in kept.items():
        assert (root / name).stat().st_ino == inode
    assert pictures.contents(root) == pictures.contents(native)


def test_killed_in_the_middle_of_a_shard_removes_the_shard(images, native, tmp_path):
    root = tmp_path / "records"
    process = start(0.2, command(images, root))
    wait_for(root / "records-00000.array_record.partial", process)
    process.kill()
    process.wait()
    assert not list(root.glob("*.array_record"))
    pictures.prepare(images, root)
    assert pictures.contents(root) == pictures.contents(native)


def test_two_processes_in_one_folder_are_an_error(images, tmp_path):
    root = tmp_path / "records"
    process = start(0.2, command(images, root))
    try:
        wait_for(root / "unfinished" / "settings.json", process)
        with pytest.raises(DataError, match="another process is preparing images"):
            pictures.prepare(images, root)
    finally:
        process.kill()
        process.wait()


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
from simple_diffusion.modes import prepare
prepare.main(sys.argv[2:])
"""


@pytest.mark.parametrize("limit", [50, 100_000])
def test_a_full_disk_is_a_clear_error_and_finished_shards_stay(
    images, native, tmp_path, limit
):
    root = tmp_path / "records"
    line = [sys.executable, "-c", FULL, str(limit), *command(images, root)]
    run = subprocess.run(line, capture_output=True, text=True)
    assert run.returncode == 1
    assert re.search(r"error: cannot write .*File too large.*same comm", run.stderr)
    assert not list(root.rglob("*.partial")) and not (root / MANIFEST).exists()
    pictures.prepare(images, root)
    assert pictures.contents(root) == pictures.contents(native)


def test_a_complete_output_is_reported_without_reading_images(tmp_path, capsys):
    images = pictures.make(tmp_path / "images", 9)
    root = pictures.prepare(images, tmp_path / "records")
    before = pictures.contents(root)
    images.rename(tmp_path / "elsewhere")
    prepare.main(command(images, root))
    prepare.main([f"--output={root}", "--verify"])
    said = capsys.readouterr().out
    assert said.count("complete: 9 images of 3 classes in") == 2
    assert "comparing sizes" in said and "comparing checksums" in said
    assert f"train with --config.data.source=records:{root}" in said
    assert pictures.contents(root) == before


def interrupted(images, root, monkeypatch, **options):
    """Starts the preparation and stops it by Ctrl-C."""
    update, calls = ordered_pool.Progress.update, itertools.count()

    def stop(self, done):
        if next(calls) == 12:
            raise KeyboardInterrupt
        update(self, done)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ordered_pool.Progress, "update", stop)
        pictures.prepare(images, root, **options)


@pytest.mark.parametrize("lost", [True, False])
def test_a_damaged_shard_is_written_again(images, native, tmp_path, monkeypatch, lost):
    root = tmp_path / "records"
    interrupted(images, root, monkeypatch)
    first = root / "records-00000.array_record"
    if lost:
        first.unlink()
    else:
        first.write_bytes(first.read_bytes()[:-1])
    pictures.prepare(images, root)
    assert pictures.contents(root) == pictures.contents(native)


@pytest.mark.parametrize("complete", [True, False])
def test_other_settings_than_before_are_named_with_those(
    images, tmp_path, monkeypatch, complete
):
    root = tmp_path / "records"
    begin = dict(size=32, resize="area", quality=95)
    if complete:
        pictures.prepare(images, root, **begin)
    else:
        interrupted(images, root, monkeypatch, **begin)
    said = "started with --size 32 --quality 95, not with --size 64 --quality loss"
    with pytest.raises(DataError, match=said):
        pictures.prepare(images, root, size=64, resize="area", quality="lossless")
    pictures.prepare(images, root, **begin)


def test_images_added_in_between_are_an_error(tmp_path, monkeypatch):
    images = pictures.make(tmp_path / "images")
    interrupted(images, tmp_path / "records", monkeypatch)
    pictures.write(images / "cat" / "new.png", pictures.pixels(0, 9, 9))
    with pytest.raises(
        DataError, match="was started when --input .* held other images"
    ):
        pictures.prepare(images, tmp_path / "records")


def test_invalid_outputs_are_errors(images, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("")
    for output, said in (
        (images, "is the folder of the images itself"),
        (tmp_path / "full", "is not empty, .* it holds thesis.txt"),
        (tmp_path / "file", "cannot be created or read: "),
        (tmp_path / "file" / "below", "cannot be created or read: "),
    ):
        with pytest.raises(DataError, match=f"--output {output} {said}"):
            pictures.prepare(images, output)
    assert os.listdir(tmp_path / "full") == ["thesis.txt"]


@pytest.mark.parametrize(
    "spec, said",
    [
        ("folder:{0}/gone", "/gone does not exist"),
        ("folder:{0}/empty", "no image in .*files count as images by their suffix"),
        (
            "{0}/empty",
            "must be folder:PATH, tar:PATH or tfds:NAME; for this folder write folder:",
        ),
        ("scenes", "must be folder:PATH, tar:PATH or tfds:NAME"),
    ],
)
def test_invalid_inputs_are_errors(tmp_path, spec, said):
    (tmp_path / "empty").mkdir()
    settings = encoding.Settings(spec.format(tmp_path))
    with pytest.raises(DataError, match=said):
        preparation.prepare(settings, tmp_path / "records")


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--sizes=3"], "unrecognized arguments: --sizes=3"),
        (["--size=-3"], "-3 must be a whole number above 0"),
        (["--size=9", "--quality=101"], "101 must be 1 to 100, or lossless"),
        (["--quality=90"], "--quality has no effect without --size"),
        (["--resize=area"], "--resize has no effect without --size"),
        (["--data_dir=/x"], "--data_dir has no effect without --input tfds:NAME"),
        (["--shard_megabytes=0"], "0 must be a number above 0"),
        (["--workers=0"], "0 must be a whole number above 0"),
    ],
)
def test_contradicting_flags_are_errors(images, tmp_path, capsys, flags, said):
    with pytest.raises(SystemExit):
        prepare.main([f"--input=folder:{images}", f"--output={tmp_path}", *flags])
    assert said in capsys.readouterr().err
    assert not os.listdir(tmp_path)


def test_the_command_takes_its_flags(images, native, tmp_path, capsys):
    flags = ["--size=16", "--resize=antialias", "--quality=png", "--workers=2"]
    prepare.main(command(images, tmp_path / "made", *flags))
    options = dict(size=16, resize="antialias", quality="lossless")
    again = pictures.prepare(images, tmp_path / "again", **options)
    assert pictures.contents(tmp_path / "made") == pictures.contents(again)
    with pytest.raises(SystemExit, match="error: --output .* was started with"):
        prepare.main(command(images, native, "--size=16"))
    with pytest.raises(SystemExit):
        prepare.main([f"--output={native}"])
    assert "--input is required" in capsys.readouterr().err


def test_progress_is_printed_with_speed_and_time_left(images, tmp_path, monkeypatch):
    monkeypatch.setattr(ordered_pool, "_SECONDS_BETWEEN_REPORTS", 0.0)
    lines = []
    settings = encoding.Settings(f"folder:{images}")
    preparation.prepare(settings, tmp_path, report=lines.append)
    form = r"\d+ of 40 images \(\d+\.\d%\), \d+ images/s, \d skipped, ETA \d:\d\d:\d\d"
    assert len(lines) == 41 and all(re.fullmatch(form, line) for line in lines[:-1])
    assert lines[-2].startswith("40 of 40 images (100.0%)")


def test_subfolders_that_look_like_splits_are_reported(tmp_path, capsys):
    for split in ("train", "val"):
        pictures.write(tmp_path / "images" / split / "1.png", pictures.pixels(0, 9, 9))
    pictures.prepare(tmp_path / "images", tmp_path / "records")
    assert "taken for classes, and are called train, val; " in capsys.readouterr().out


def test_a_tfds_set_keeps_its_images_classes_and_splits(tmp_path):
    numbered = test_tfds_source.numbered
    splits = {"train": numbered(*range(20)), "validation": numbered(50, 51, 52)}
    test_tfds_source.prepare(tmp_path, "toy", splits)
    settings = encoding.Settings("tfds:toy", data_dir=str(tmp_path))
    root = tmp_path / "records"
    preparation.prepare(settings, root)
    assert pictures.manifest_of(root)["holdout_from"] == 20
    for split in ("train", "holdout"):
        one = catalogue.open_source("tfds:toy", str(tmp_path), split)
        other = catalogue.open_source(f"records:{root}", split=split)
        assert one.class_names == other.class_names == ("a", "b")
        assert len(one) == len(other)
        for k in range(len(one)):
            example, same = one.read(k, 4), other.read(k, 4)
            assert (example.image == same.image).all()
            assert example.label == same.label
            assert other.name(k).endswith(f": {one.name(k)}")
