"""What the README promises about faults, each by a real process that meets one."""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from simple_diffusion.core import images
from simple_diffusion.data.sources import catalogue
from simple_diffusion.training import cluster, report
from tests.faults import disks

ROOT = Path(__file__).parents[2]
PATIENCE = 300
TINY = "tests/faults/tiny.py"
STEPS = 40  # of the tiny recipe; it saves every fourth
STOPPED = 143  # by a signal, after saving


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """One device, and programs that are compiled once for all the runs here."""
    cache = tmp_path_factory.getbasetemp() / "compiled"
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


@pytest.fixture
def start(environment):
    """Returns a function that starts a run; what still runs in the end is killed."""
    started = []

    def start(workdir, *flags, fault="none", place=(), recipe=TINY, **options):
        command = [sys.executable, "-u", "-m", "tests.faults.run", fault, *place]
        command += ["--config", recipe, "--workdir", str(workdir)]
        process = subprocess.Popen(
            [*command, *(f"--config.{flag}" for flag in flags)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def finish(process):
    """Returns exit code and output."""
    output, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, output


def by_two(start, workdir, *flags, place=(), recipe=TINY):
    """Lets two processes do what one does elsewhere, to its end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    cluster_flags = ["--distributed", f"--coordinator={address}", "--process_count=2"]
    processes = [
        start(
            *(workdir, *flags),
            place=[*place, *cluster_flags, f"--process_id={index}"],
            recipe=recipe,
        )
        for index in range(2)
    ]
    for process in processes:
        code, output = finish(process)
        assert code == 0, output


def measured(workdir):
    return json.loads((workdir / "metrics.json").read_text())["metrics"]


def wait_for(process, pattern):
    """Reads the output until a line matches; not for ever."""
    seen = ""
    late = threading.Timer(PATIENCE, process.kill)
    late.start()
    try:
        for line in process.stdout:
            seen += line
            if re.search(pattern, line):
                return seen
    finally:
        late.cancel()
    raise AssertionError(f"it ended with {process.wait()} before {pattern}:\n{seen}")


def newest(workdir):
    return max(
        int(path.name)
        for path in (workdir / "checkpoints").iterdir()
        if path.name.isdigit()
    )


def arrays(workdir, step):
    """Returns all arrays of a checkpoint as bytes."""
    folder = workdir / "checkpoints" / str(step)
    parts = ("params", "ema_main", "progress")
    with ocp.StandardCheckpointer() as reader:
        trees = {part: reader.restore(folder / part) for part in parts}
    return {
        jax.tree_util.keystr(path): np.asarray(leaf).tobytes()
        for path, leaf in jax.tree_util.tree_leaves_with_path(trees)
    }


def losses(workdir):
    lines = report.read_metrics(workdir / "metrics.jsonl")
    return [(line["step"], line["loss"]) for line in lines]


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory, environment):
    workdir = tmp_path_factory.mktemp("uninterrupted") / "run"
    command = [sys.executable, "-m", "tests.faults.run", "none"]
    command += ["--config", "tests/faults/tiny.py", "--workdir", str(workdir)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    assert [step for step, _ in losses(workdir)] == list(range(1, STEPS + 1))
    return workdir


def check_equal(workdir, uninterrupted):
    """To the last bit: state, losses, and the pictures that were made of them."""
    assert arrays(workdir, STEPS) == arrays(uninterrupted, STEPS)
    assert losses(workdir) == losses(uninterrupted)
    picture = (uninterrupted / "samples.png").read_bytes()
    assert (workdir / "samples.png").read_bytes() == picture
    found, wanted = (
        json.loads((folder / "metrics.json").read_text())
        for folder in (workdir, uninterrupted)
    )
    for record in (found, wanted):
        # Of the command, and of a checkout that may change meanwhile.
        del record["time"], record["config"], record["commit"]
    assert found == wanted


def copy_of(uninterrupted, tmp_path):
    """Returns a run that has ended at step 36, and its newest checkpoint."""
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted, workdir)
    shutil.rmtree(workdir / "checkpoints" / str(STEPS))
    for name in ("samples.png", "metrics.json"):
        (workdir / name).unlink()
    return workdir, workdir / "checkpoints" / str(newest(workdir))


@pytest.mark.slow
def test_killed_ten_times_equals_uninterrupted(start, tmp_path, uninterrupted):
    """At random times: in start-up, in a step, in a save, in the evaluation."""
    workdir, random_ = tmp_path / "run", random.Random(0)
    in_a_save = 0
    for kill in range(10):
        # Saves every step but one, or ten kills would hardly ever meet one.
        process = start(workdir, "train.checkpoint_every_steps=1")
        if kill % 4 == 0:
            time.sleep(random_.uniform(0.5, 5.0))
        else:
            wait_for(process, "first step after|training is complete")
            time.sleep(random_.uniform(0.0, 0.8))
        process.kill()
        process.wait()
        saves = workdir / "checkpoints"
        in_a_save += saves.exists() and any("tmp" in p.name for p in saves.iterdir())
    code, output = finish(start(workdir, "train.checkpoint_every_steps=1"))
    assert code == 0, output
    check_equal(workdir, uninterrupted)
    assert in_a_save, "none of the kills met a save; the test has lost its point"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_same_command_goes_on(
    number, start, tmp_path, uninterrupted
):
    workdir = tmp_path / "run"
    process = start(workdir)
    wait_for(process, "step 6/")
    process.send_signal(number)
    code, output = finish(process)
    assert code == STOPPED, output
    saved = newest(workdir)
    assert f"stopped by a signal; saved step {saved} of {STEPS}" in output
    code, output = finish(start(workdir))
    assert code == 0 and f"resuming at step {saved}" in output
    check_equal(workdir, uninterrupted)


@pytest.mark.slow
def test_two_processes_train_show_and_evaluate_as_one_does(
    start, tmp_path, uninterrupted
):
    workdir = tmp_path / "run"
    by_two(start, workdir, "mesh.fsdp=2")
    found, wanted = losses(workdir), losses(uninterrupted)
    # Sums over two devices are taken in another order, and 40 steps of training from
    # scratch at a high learning rate magnify that.
    np.testing.assert_allclose(found, wanted, rtol=5e-3)
    mine, one = measured(workdir), measured(uninterrupted)
    assert mine.keys() == one.keys()
    assert mine["held_out_loss"] == pytest.approx(one["held_out_loss"], rel=5e-3)
    assert (workdir / "samples.png").exists()


@pytest.mark.slow
def test_two_processes_train_on_conditions_as_one_does(start, tmp_path):
    recipe, alone, shared = f"{TINY}:conditions", tmp_path / "one", tmp_path / "two"
    code, output = finish(start(alone, "train.total_steps=8", recipe=recipe))
    assert code == 0, output
    by_two(start, shared, "train.total_steps=8", "mesh.fsdp=2", recipe=recipe)
    np.testing.assert_allclose(losses(shared), losses(alone), rtol=1e-3)
    mine, one = measured(shared), measured(alone)
    assert mine["held_out_loss"] == pytest.approx(one["held_out_loss"], rel=1e-3)
    # The grid is drawn on the conditions of the same held-out images.
    found, wanted = (images.read_png(d / "samples.png") for d in (shared, alone))
    assert np.abs(found.astype(int) - wanted).max() <= 2


@pytest.mark.slow
def test_two_processes_measure_what_one_does(start, tmp_path, uninterrupted):
    """Though the last batch of 16 is filled up: of 20 samples it has four."""
    flags = ["evaluate.count=20", "evaluate.reference_features=40"]
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    for workdir in (alone, shared):
        shutil.copytree(uninterrupted, workdir)
    code, output = finish(start(alone, *flags, place=["--mode=evaluate"]))
    assert code == 0, output
    by_two(start, shared, *flags, "mesh.fsdp=2", place=["--mode=evaluate"])
    mine, one = measured(shared), measured(alone)
    assert mine == pytest.approx(one, rel=1e-3)
    assert {"fd_thumbnail_20", "kd_thumbnail_20"} <= mine.keys()


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_leaves_the_checkpoints(
    start, tmp_path, uninterrupted
):
    with disks.small(tmp_path, megabytes=4) as (disk, kind):
        workdir = disk / "run"
        flags = ["train.checkpoint_every_steps=2", "train.keep_checkpoints=50"]
        fault = "none" if kind == "disk" else "limit:2000"
        code, output = finish(start(workdir, *flags, fault=fault))
        assert code == 1, output
        # The last word is ours, whatever the threads of the writer have said before.
        assert output.splitlines()[-2].startswith("error: could not "), output
        assert "Checkpoints there: [2, 4" in output.splitlines()[-2]
        kept = tmp_path / "kept"
        shutil.copytree(workdir, kept)
    # Where there is room again, the run goes on as if nothing had been.
    code, output = finish(start(kept, *flags))
    assert code == 0 and "resuming at step" in output, output
    check_equal(kept, uninterrupted)


def truncate(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def remove(folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in files[::2]:
        path.unlink()


def flip(folder):
    largest = max(
        (path for path in (folder / "params").rglob("*") if path.is_file()),
        key=lambda path: path.stat().st_size,
    )
    content = bytearray(largest.read_bytes())
    for position in range(0, len(content), 97):
        content[position] ^= 0x10
    largest.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [truncate, remove, flip])
def test_a_damaged_newest_checkpoint_is_set_aside_and_the_run_ends_the_same(
    damage, start, tmp_path, uninterrupted
):
    workdir, latest = copy_of(uninterrupted, tmp_path)
    damage(latest)
    code, output = finish(start(workdir))
    assert code == 0, output
    assert "damaged checkpoint, trying the one before: step 36" in output
    assert "resuming at step 32" in output
    assert (workdir / "damaged" / "36").exists()
    check_equal(workdir, uninterrupted)


@pytest.mark.slow
def test_a_workdir_that_cannot_be_written_is_refused_at_once(start, tmp_path):
    with disks.read_only(tmp_path) as folder:
        began = time.monotonic()
        code, output = finish(start(folder / "run"))
        assert code == 1, output
        assert "cannot write to" in output and "Choose another --workdir" in output
        assert "Traceback" not in output
        assert "first step" not in output
        assert time.monotonic() - began < PATIENCE / 2


@pytest.mark.slow
def test_images_that_turn_unreadable_are_named_and_the_run_goes_on(start, tmp_path):
    pictures = tmp_path / "pictures"
    source = catalogue.open_source("scenes", None, "train")
    for k in range(24):
        images.write_png(pictures / f"{k:02}.png", source.read(k, 32).image)
    workdir = tmp_path / "run"
    flags = [f"data.source=folder:{pictures}", "train.total_steps=120"]
    process = start(workdir, *flags)
    seen = wait_for(process, "step 6/")
    for path in sorted(pictures.iterdir())[:6]:
        path.write_bytes(path.read_bytes()[:40])
    (pictures / "07.png").unlink()
    code, output = finish(process)
    assert code == 0, seen + output
    assert [step for step, _ in losses(workdir)] == list(range(1, 121))
    assert re.search(r"0[0-5]\.png", output), output
    assert "07.png" in output


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run_and_harms_nothing(
    start, tmp_path, uninterrupted
):
    workdir = tmp_path / "run"
    code, output = finish(start(workdir, fault="nan:15"))
    assert code == 1, output
    assert "step 15: loss is nan" in output and "Traceback" not in output
    assert newest(workdir) == 12
    assert not any(np.isnan(loss) for _, loss in losses(workdir))
    # The fault was not in the data: the same command without it goes on to the end.
    code, output = finish(start(workdir))
    assert code == 0 and "resuming at step 12" in output, output
    check_equal(workdir, uninterrupted)


@pytest.mark.slow
def test_a_stalled_source_is_logged_and_waited_for(start, tmp_path, uninterrupted):
    workdir = tmp_path / "run"
    patience = "train.stall_warning_seconds=2.0"
    code, output = finish(start(workdir, patience, fault="stall:20:7"))
    assert code == 0, output
    # Batches are asked for three steps before they are needed.
    assert re.search(
        r"still waiting for the data of step 1[78], after \d+ s", output
    ), output
    assert re.search(r"waiting for the data of step 1[78] took \d+ s; going on", output)
    check_equal(workdir, uninterrupted)


@pytest.mark.slow
def test_a_source_that_stalls_for_too_long_ends_the_run(start, tmp_path):
    workdir = tmp_path / "run"
    flags = ["train.stall_warning_seconds=2.0", "train.stall_limit_seconds=40.0"]
    code, output = finish(start(workdir, *flags, fault="stall:20:1000"))
    assert code == cluster.EXIT_RETRY, output
    assert "the limit" in output
    assert newest(workdir) == 16
