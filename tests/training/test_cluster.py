"""Several processes on this machine, talking over loopback, train as one."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from simple_diffusion.core import signals
from simple_diffusion.training import cluster, report

ROOT = Path(__file__).parents[2]
# All of them compile at the same time, on a machine that may do other things as well.
PATIENCE = 240


def together(folder, count, steps, what="train"):
    """Returns (exit code, output) of each process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tests.training.together", str(folder), str(port)]
    processes = [
        subprocess.Popen(
            [*command, str(count), str(index), str(steps), what],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(count)
    ]
    try:
        # The frozen one never ends by itself: it is the last, and it is killed.
        waited = processes[:-1] if what == "freeze" else processes
        outputs = [process.communicate(timeout=PATIENCE)[0] for process in waited]
    finally:
        for process in processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
    codes = [process.returncode for process in processes]
    return list(zip(codes, outputs, strict=False))


def outcome(output):
    return json.loads(output.splitlines()[-1])


def losses(folder):
    return [line["loss"] for line in report.read_metrics(folder / "metrics.jsonl")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    [(code, output)] = together(folder, 1, 20)
    assert code == 0, output
    return losses(folder), outcome(output)


def check_same(found, wanted):
    assert {key: found[key] for key in ("status", "step")} == {
        key: wanted[key] for key in ("status", "step")
    }
    for mine, other in zip(found["state"], wanted["state"], strict=True):
        # Sums over devices of other processes are taken in another order: 20 steps of
        # Adam carry differences of the last float32 digit to about the fifth.
        np.testing.assert_allclose(mine, other, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(
    "count", [2, pytest.param(4, marks=pytest.mark.slow)], ids=["two", "four"]
)
def test_several_processes_train_as_one_does(count, tmp_path, alone):
    ended = together(tmp_path, count, 20)
    assert [code for code, _ in ended] == [0] * count, ended
    np.testing.assert_allclose(losses(tmp_path), alone[0], rtol=2e-4)
    for _, output in ended:
        check_same(outcome(output), alone[1])
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "10",
        "15",
        "20",
    ]


@pytest.mark.slow
def test_a_run_resumes_with_another_number_of_processes(tmp_path, alone):
    for count, steps in ((2, 5), (1, 10), (4, 15), (2, 20)):
        ended = together(tmp_path, count, steps)
        assert [code for code, _ in ended] == [0] * count, ended
    check_same(outcome(ended[0][1]), alone[1])
    np.testing.assert_allclose(losses(tmp_path), alone[0], rtol=2e-4)


@pytest.mark.slow
def test_all_end_together_when_the_data_of_one_runs_short(tmp_path):
    ended = together(tmp_path, 2, 2000, "short")
    assert [code for code, _ in ended] == [1, 1], ended
    said = [output.splitlines()[-1] for _, output in ended]
    # To the last batch: that there is no thirteenth is voted with step 11, and known
    # when step 12 is under way.
    assert "stopped after step 12, which is saved: process 1 has no more" in said[0]
    assert "stopped after step 12, which is saved: the data ended" in said[1]
    assert (tmp_path / "checkpoints" / "12").exists()


@pytest.mark.slow
def test_a_signal_to_one_stops_all_after_the_same_step(tmp_path):
    ended = together(tmp_path, 2, 2000, "signal")
    assert [code for code, _ in ended] == [0, 0], ended
    first, second = (outcome(output) for _, output in ended)
    assert first == second
    # Voted with step 13, known when step 14 is under way.
    assert (first["status"], first["step"]) == ("stopped", 14)
    assert (tmp_path / "checkpoints" / str(first["step"])).exists()


@pytest.mark.slow
def test_all_stop_at_the_same_step_that_is_not_finite(tmp_path):
    ended = together(tmp_path, 2, 2000, "nan")
    assert [code for code, _ in ended] == [1, 1], ended
    first, second = (output.splitlines()[-1] for _, output in ended)
    assert first == second
    assert first.startswith("NonFiniteError: step ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        ("kill", cluster.EXIT_RETRY, "process 1 is lost: no sign of life for 6 s"),
        (
            "kill_saving",
            cluster.EXIT_RETRY,
            "process 1 is lost: no sign of life for 6 s",
        ),
        ("freeze", cluster.EXIT_RETRY, "process 1 is lost: no sign of life for 6 s"),
        ("fail", 1, "process 1 stopped: OSError: the disk of this host is full"),
    ],
)
def test_when_one_process_is_gone_the_other_logs_it_and_ends(
    what, code, said, tmp_path
):
    """Within the time that `together` waits, in place of hanging for ever."""
    (found, output), *_ = together(tmp_path, 2, 2000, what)
    assert found == code, output
    assert f"process 0 of 2: {said}" in output
    assert (tmp_path / "checkpoints" / "5").exists()


@pytest.mark.slow
def test_when_the_first_one_is_gone_the_others_end_too(tmp_path):
    """By jax, with its own words, or by the watch: whoever finds out first."""
    (_, _), (code, output) = together(tmp_path, 2, 2000, "kill_first")
    said = {
        -signal.SIGABRT: "distributed service detected fatal errors",
        cluster.EXIT_RETRY: "process 1 of 2: process 0 ",  # is lost, or does not answer
    }
    assert said[code] in output, output


@pytest.mark.slow
def test_a_checkpoint_that_one_process_cannot_read_is_set_aside_by_all(tmp_path):
    ended = together(tmp_path, 2, 10)
    assert [code for code, _ in ended] == [0, 0], ended
    ended = together(tmp_path, 2, 12, "damage")
    assert [code for code, _ in ended] == [0, 0], ended
    assert "another process cannot read it" in ended[0][1]
    assert "ZeroDivisionError" in ended[1][1]
    assert [path.name for path in (tmp_path / "damaged").iterdir()] == ["10"]
    # It went on from step 5, and saved step 10 again.
    assert {"10", "12"} <= {p.name for p in (tmp_path / "checkpoints").iterdir()}


def test_a_long_wait_is_logged_at_doubling_intervals_and_so_is_its_end():
    said = []
    with cluster.Watchdog(said.append, warn_after=0.2) as watch:
        watch.set_activity("waiting for the data of step 3")
        wait_until(lambda: len(said) >= 2)
        watch.set_activity("computing step 3")
    assert all("waiting for the data of step 3" in line for line in said), said
    first, second = (float(line.split()[-2]) for line in said[:2])
    assert second >= 2 * first or second == first == 0
    assert said[-1].endswith("going on")


def test_a_process_that_a_signal_stops_leaves_without_a_word_to_the_others(monkeypatch):
    """They notice that it is gone, and their exit code asks for a new start."""

    class Store:
        def __getattr__(self, name):
            raise AssertionError(f"{name} was called")

    def end(number):
        raise SystemExit(128 + number)

    monkeypatch.setattr(signals, "exit_now", end)
    watch = cluster.Watchdog(print)
    watch._store = Store()
    with pytest.raises(SystemExit, match="143"):
        watch.announce(signals.Stopped(signal.SIGTERM))


def test_the_timeout_does_not_apply_to_unlimited_activities():
    """Otherwise this process, and with it the test, would be gone."""
    said = []
    with cluster.Watchdog(said.append, warn_after=0.1, timeout=0.2) as watch:
        watch.set_activity("showing step 3", is_unlimited=True)
        time.sleep(0.6)
    assert said


def test_quick_steps_are_not_logged():
    said = []
    with cluster.Watchdog(said.append, warn_after=5.0) as watch:
        for step in range(100):
            watch.set_activity(f"computing step {step}")
    assert said == []


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        (("host:1", None, None), "--process_count and --process_id"),
        ((None, 2, 0), "--coordinator"),
    ],
)
def test_half_an_address_is_refused(given, missing):
    with pytest.raises(ValueError, match=f"{missing} must be given as well"):
        cluster.join(*given)


def wait_until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
