"""Ctrl-C and SIGTERM: handlers in this process, and whole commands."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from simple_diffusion.core import signals

ROOT = Path(__file__).parents[2]
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def ended(monkeypatch):
    """Fresh handlers; returns the signals for which the process would have ended."""
    monkeypatch.setattr(signals, "_state", signals._State())
    codes = []

    def end(number, note=""):
        codes.append(number)
        raise SystemExit(128 + number)

    monkeypatch.setattr(signals, "exit_now", end)
    before = {n: signal.signal(n, signals._handle) for n in signals._NUMBERS}
    yield codes
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_raises_what_names_it_where_files_may_be_in_work(ended, number, code):
    with pytest.raises(signals.Stopped, match="stopped by (Ctrl-C|SIGTERM)") as stopped:
        with signals.unwind():
            os.kill(os.getpid(), getattr(signal, number))
            time.sleep(1)
    assert stopped.value.code == code
    assert ended == []


def test_a_signal_ends_the_process_where_nothing_is_in_work(ended):
    with pytest.raises(SystemExit):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    assert ended == [signal.SIGINT]


def test_a_second_signal_ends_the_process_and_the_same_one_twice_does_not(
    ended, monkeypatch
):
    with signals.unwind():
        with pytest.raises(signals.Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)  # a shell passed it on, too
        time.sleep(0.01)
        monkeypatch.setattr(signals, "_SAME_REQUEST_SECONDS", 0.0)
        with pytest.raises(SystemExit):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)


def test_the_second_signal_to_a_training_ends_the_process(ended, monkeypatch):
    monkeypatch.setattr(signals, "_SAME_REQUEST_SECONDS", 0.0)
    with signals.unwind(), signals.catch_first() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        assert stop.is_set() and ended == []
        with pytest.raises(SystemExit):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)


def test_a_signal_that_is_lost_in_a_destructor_is_raised_again(ended, monkeypatch):
    class Destroyed:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)  # Python ignores what is raised here

    monkeypatch.setattr(sys, "unraisablehook", signals._raise_again)
    with pytest.raises(signals.Stopped), signals.unwind():
        destroyed = Destroyed()
        del destroyed
        time.sleep(1)


def test_an_error_that_compiled_code_made_of_a_signal_is_a_signal(ended):
    with pytest.raises(SystemExit), signals.unwind():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        except signals.Stopped as stopped:
            raise RuntimeError("INTERNAL: a callback failed") from stopped
    assert ended == [signal.SIGINT]


SLEEPY = """
import contextlib, hashlib, sys
from simple_diffusion.core import signals
signals.install()
signals._UNWIND_SECONDS = 1.0
phase = signals.unwind() if sys.argv[1] == "unwind" else contextlib.nullcontext()
with phase:
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # half an hour
"""


def wait_until_handled(process):
    """Waits until the process handles SIGTERM: what is before that is not ours."""
    status = Path(f"/proc/{process.pid}/status")
    for _ in range(3000):
        caught = re.search(r"SigCgt:\s*(\w+)", status.read_text())
        if caught and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.002)
    raise AssertionError("it handles no signal")


def stop(command, pattern, number=signal.SIGINT, delay=0.0):
    """Returns exit code, output, and seconds from the signal to the end."""
    process = subprocess.Popen(
        [sys.executable, "-u", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    try:
        seen = ""
        while pattern and not re.search(pattern, seen):
            line = process.stdout.readline()
            assert line, seen
            seen += line
        wait_until_handled(process)
        time.sleep(delay)
        process.send_signal(number)
        start = time.monotonic()
        output, _ = process.communicate(timeout=60)
        return process.returncode, seen + output, time.monotonic() - start
    finally:
        process.kill()
        process.wait()


@LINUX
@pytest.mark.parametrize("phase", ["start", "unwind"])
def test_a_thread_ends_a_process_that_is_in_compiled_code(phase):
    code, output, seconds = stop(["-c", SLEEPY, phase], "ready", signal.SIGTERM)
    assert (code, output) == (143, "ready\nstopped by SIGTERM\n")
    assert seconds < 10


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.5, 2.0, 4.0, 12.0])
def test_ctrl_c_in_the_first_seconds_of_a_command_is_one_line(delay, tmp_path):
    command = ["-m", "simple_diffusion.main", "train", "quickstart"]
    command += [f"--workdir={tmp_path / 'run'}"]
    code, output, seconds = stop(command, None, delay=delay)
    assert "Traceback" not in output and "Exception ignored" not in output, output
    assert code in (130, 143), output  # 143: training had begun and was saved
    assert output.count("stopped by") == 1
    if code == 130:
        assert seconds < 15
        assert not list(tmp_path.rglob("*.partial"))


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["prepare", "convert"])
def test_a_command_that_is_stopped_at_its_start_prints_one_line(
    module, number, tmp_path
):
    (tmp_path / "pictures").mkdir()
    flags = {
        "prepare": [f"--input=folder:{tmp_path}", f"--output={tmp_path / 'records'}"],
        "convert": ["inception", "--weights=/dev/stdin", f"--output={tmp_path}/a.npz"],
    }[module]
    command = ["-m", f"simple_diffusion.modes.{module}", *flags]
    code, output, _ = stop(command, None, number, delay=0.0)
    assert code == 128 + number
    assert len(output.strip().splitlines()) == 1 and "stopped by" in output


@pytest.mark.parametrize("replaced", [False, True])
def test_a_stop_that_was_lost_is_repeated_even_if_something_replaced_it(
    replaced, monkeypatch
):
    error = stopped = signals.Stopped(signal.SIGTERM)
    if replaced:  # as `acquire_lock` of an import does
        error = SystemError("returned a result with an exception set")
        error.__cause__ = stopped
    repeated, state = [], signals._State()
    monkeypatch.setattr(signals, "_state", state)
    monkeypatch.setattr(signals, "_REPEAT_SECONDS", 0.0)
    monkeypatch.setattr(signals._thread, "interrupt_main", repeated.append)
    before = threading.active_count()
    signals._raise_again(SimpleNamespace(exc_value=error))
    while threading.active_count() > before:
        time.sleep(0.01)
    assert state.is_lost and repeated == [signal.SIGTERM]
