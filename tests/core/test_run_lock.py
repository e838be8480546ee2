"""The lock of a workdir."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import time

import pytest
from etils import epath

from simple_diffusion.core import run_lock


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "_SETTLE_SECONDS", 0.01)
    return epath.Path(tmp_path / "run")


def fail(reason):
    raise AssertionError(reason)


def hold(folder, log=fail, stop=fail):
    return run_lock.hold(folder, log=log, stop=stop)


def leave(folder, **changes):
    """Leaves the lock of another training; returns its owner."""
    owner = run_lock.Owner("far", "other machine", 7, "1", time.time() - 300, "t")
    owner = dataclasses.replace(owner, **changes)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / run_lock.FILE).write_text(json.dumps(dataclasses.asdict(owner)))
    return owner


def test_a_lock_names_host_process_and_start_and_is_gone_afterwards(folder):
    with hold(folder):
        owner = run_lock.read(folder)
        assert owner.pid == os.getpid() and owner.host
        assert abs(owner.start - time.time()) < 60
    assert run_lock.read(folder) is None
    assert not list(folder.iterdir())


def test_a_second_training_on_this_machine_is_an_error_at_once(folder):
    with hold(folder):
        match = (
            f"--workdir={re.escape(str(folder))}: another training .* process "
            rf"{os.getpid()} on .*, started \d s ago. Stop that one or choose another"
        )
        with pytest.raises(run_lock.LockedError, match=match), hold(folder):
            pass
        assert run_lock.read(folder) is not None  # still that of the first


def test_the_lock_of_a_process_that_is_gone_is_taken_over_at_once(folder):
    command = [sys.executable, "-c", ""]
    process = subprocess.Popen(command)
    process.wait()
    leave(folder, machine=run_lock._machine(), pid=process.pid)
    said = []
    with hold(folder, said.append):
        assert run_lock.read(folder).pid == os.getpid()
    assert said == [
        f"taking over the lock of process {process.pid} on far, which has ended"
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_number_of_a_process_that_is_used_again_is_no_sign_of_life(folder):
    here = run_lock._machine()
    leave(folder, machine=here, pid=os.getpid(), process_start="12")
    with hold(folder, lambda line: None):
        assert run_lock.read(folder).process_start != "12"


def test_a_lock_of_another_machine_is_taken_over_without_signs_of_life(
    folder, monkeypatch
):
    monkeypatch.setattr(run_lock, "STALE_SECONDS", 0.3)
    leave(folder)
    said, start = [], time.monotonic()
    with hold(folder, said.append):
        assert time.monotonic() - start >= 0.3
    assert "waiting up to 0 s for a sign of life" in said[0]
    assert "taking over" in said[1]


def test_a_renewed_lock_of_another_machine_is_an_error(folder, monkeypatch):
    monkeypatch.setattr(run_lock, "STALE_SECONDS", 30.0)
    leave(folder)

    def renew(line):
        leave(folder, count=1)

    match = "process 7 on far, started 5 min ago"
    with pytest.raises(run_lock.LockedError, match=match), hold(folder, renew):
        pass
    assert run_lock.read(folder).host == "far"


def test_a_lock_that_is_released_while_another_training_waits_is_free(
    folder, monkeypatch
):
    monkeypatch.setattr(run_lock, "STALE_SECONDS", 30.0)
    leave(folder)

    def release(line):
        (folder / run_lock.FILE).unlink(missing_ok=True)

    with hold(folder, release):
        assert run_lock.read(folder).pid == os.getpid()


def test_a_damaged_lock_is_waited_for_as_one_of_another_machine(folder, monkeypatch):
    monkeypatch.setattr(run_lock, "STALE_SECONDS", 0.1)
    folder.mkdir()
    (folder / run_lock.FILE).write_text('{"host": "fa')
    with hold(folder, lambda line: None):
        assert run_lock.read(folder).pid == os.getpid()


def test_a_training_renews_its_lock_and_stops_when_another_has_taken_it(
    folder, monkeypatch
):
    monkeypatch.setattr(run_lock, "RENEW_SECONDS", 0.02)
    reasons = []

    def wait(until):
        deadline = time.monotonic() + 20
        while not until():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    with hold(folder, stop=reasons.append):
        wait(lambda: run_lock.read(folder).count > 2)
        (folder / run_lock.FILE).unlink()  # by hand
        wait(lambda: run_lock.read(folder) is not None)
        leave(folder)
        wait(lambda: reasons)
    assert "process 7 on far" in reasons[0]
    assert run_lock.read(folder).host == "far"  # not released: it is not ours


def test_of_two_trainings_that_write_at_once_one_has_the_lock(folder, monkeypatch):
    folder.mkdir()
    monkeypatch.setattr(run_lock, "_create", lambda folder, owner: False)  # a bucket
    write = run_lock._write

    def overwritten(folder, owner):
        write(folder, owner)
        leave(folder, host="near")

    monkeypatch.setattr(run_lock, "_write", overwritten)
    match = "process 7 on near"
    with pytest.raises(run_lock.LockedError, match=match), hold(folder):
        pass


def test_a_folder_that_cannot_be_written_is_an_error(folder):
    folder.parent.joinpath("run").write_text("a file")
    with pytest.raises(OSError), hold(folder):
        pass


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.0, "3 s"), (90.0, "90 s"), (150.0, "2 min"), (9e3, "2 h")]
)
def test_ages_are_rounded(seconds, text):
    assert run_lock._format_age(seconds) == text
