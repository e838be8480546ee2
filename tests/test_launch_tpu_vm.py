"""The scripts for TPU VMs: the commands they give, and what they do when a run ends."""

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.stand_ins import LAUNCH, Site


@pytest.fixture
def site(tmp_path) -> Site:
    return Site(tmp_path)


WHERE = ["--name=n", "--project=p", "--zone=z"]
WHAT = ["--type=v5litepod-16", "--runtime=v2"]
MAIN = ["--config", "a b.py", "--workdir", "gs://b/r"]
PLACE = "--project=p --zone=z"
QUEUE = "gcloud compute tpus queued-resources"
SSH = f"gcloud compute tpus tpu-vm ssh n {PLACE}"
CREATE = (
    f"{QUEUE} create n {PLACE} --node-id=n "
    "--accelerator-type=v5litepod-16 --runtime-version=v2"
)
DELETE = f"{QUEUE} delete n {PLACE} --force --quiet"
SUPERVISE = "simple_diffusion/launch/supervise.sh"
BEGIN = (
    f"{SSH} --worker=all --command=env ACCELERATOR=tpu {SUPERVISE} start run "
    r"simple_diffusion/launch/local.sh --distributed --config a\ b.py --workdir gs://b/r"
)
COMMANDS = {
    "create": ([*WHERE, *WHAT, "--spot"], [CREATE + " --spot"]),
    "run": (
        [*WHERE, "--", *MAIN],
        [BEGIN, f"{SSH} --worker=0 --command={SUPERVISE} follow run"],
    ),
    "logs": (
        [*WHERE, "--worker=3"],
        [f"{SSH} --worker=3 --command={SUPERVISE} follow run"],
    ),
    "stop": (WHERE, [f"{SSH} --worker=all --command={SUPERVISE} stop run"]),
    "delete": (WHERE, [DELETE]),
}


@pytest.mark.parametrize("action", COMMANDS)
def test_a_command_for_tpu_vms_is_exactly_that_of_gcloud(site, action):
    flags, expected = COMMANDS[action]
    result = site.run("tpu_vm.sh", action, "--yes", *flags)
    assert result.returncode == 0, result.stderr
    assert [" ".join(call) for call in site.calls()] == expected


def test_setup_sends_what_is_committed_to_all_workers_and_installs_it(site):
    site.run("tpu_vm.sh", "setup", *WHERE)
    archive, copy, install = site.calls()
    file = "runs/simple_diffusion-n.tar.gz"
    assert archive[:2] == ["git", "archive"] and archive[-1] == "0123abc"
    assert f"--output={file}" in archive
    assert copy[4:7] == ["scp", file, "n:simple_diffusion.tar.gz"]
    assert "--worker=all" in copy and "--worker=all" in install
    assert install[-1].endswith("ACCELERATOR=tpu simple_diffusion/launch/setup.sh")


@pytest.mark.parametrize("action", [*COMMANDS, "setup", "watch", "status"])
def test_a_dry_run_shows_each_command_and_calls_nothing(site, action):
    flags, expected = COMMANDS.get(action, ([*WHERE, *WHAT, "--", *MAIN], []))
    result = site.run("tpu_vm.sh", action, "--dry-run", *flags)
    assert result.returncode == 0 and site.calls() == []
    shown = [line[2:] for line in result.stderr.splitlines() if line[:2] == "+ "]
    plain = [re.sub(r"'(--command=.*)'$", r"\1", line) for line in shown]
    assert plain == expected if expected else shown


@pytest.mark.parametrize(
    "flags, complaint",
    [
        ([], "the first word must be create"),
        (["begin", *WHERE], "the first word must be create"),
        (["stop", "--name=n", "--zone=z"], "--project=... is missing"),
        (["delete", "--yes", "--project=p", "--zone=z"], "--name=... is missing"),
        (["delete", "--yes", "--name=n", "--project=p"], "--zone=... is missing"),
        (["create", "--yes", *WHERE, "--runtime=v2"], "--type=... is missing"),
        (["watch", "--yes", *WHERE, "--type=t", "--", *MAIN], "--runtime=... is miss"),
        (["create", "--yes", *WHERE, *WHAT, "--sport"], "unknown flag --sport"),
        (["run", *WHERE, "--", "--config", "a"], "--workdir=(missing)"),
        (["run", *WHERE, "--", "--workdir=runs/a"], "--workdir=runs/a after --"),
        (["create", *WHERE, *WHAT], "COSTS MONEY: a v5litepod-16 in z"),
        (["create", *WHERE, *WHAT], "nothing was done; add --yes"),
        (["delete", *WHERE], "nothing was done; add --yes"),
        (["watch", *WHERE, *WHAT, "--", *MAIN], "nothing was done; add --yes"),
    ],
)
def test_what_is_missing_or_not_agreed_to_is_named_before_anything_is_done(
    site, flags, complaint
):
    result = site.run("tpu_vm.sh", *flags)
    assert result.returncode == 2 and complaint in result.stderr
    assert site.calls() == []


def watch(site: Site) -> tuple[subprocess.CompletedProcess, list[str]]:
    """Runs watch; returns the calls that changed something, by what they did."""
    result = site.run("tpu_vm.sh", "watch", "--yes", *WHERE, *WHAT, "--", *MAIN)
    names = {CREATE: "create", DELETE: "delete", BEGIN: "begin"}
    lines = [" ".join(call) for call in site.calls()]
    done = [names.get(line) or ("setup" * line.endswith("setup.sh")) for line in lines]
    return result, [name for name in done if name]


def test_watch_makes_preempted_machines_anew_and_gives_the_same_command(site):
    active = "0 ACTIVE"
    site.answer(
        "requests", active, active, "0 SUSPENDED", "0 WAITING_FOR_RESOURCES", active
    )
    site.answer("machines", "0 READY")
    none, good = "0 run: none here", "0 run: ended with 0"
    some = r"0 run: ended with 0\nrun: running"  # as many lines as workers
    site.answer("runs", none, some, none, some, good)
    result, done = watch(site)
    assert result.returncode == 0, result.stderr
    assert done == ["setup", "begin", "delete", "create", "setup", "begin"]
    assert "still run and cost money" in result.stderr


def test_watch_replaces_machines_whose_request_is_active_but_which_are_gone(site):
    site.answer("requests", "0 ACTIVE")
    site.answer("machines", "0 PREEMPTED", "0 READY")
    site.answer("runs", "0 run: none here", "0 run: ended with 0")
    assert watch(site)[1] == ["delete", "create", "setup", "begin"]


def test_watch_leaves_a_run_alone_that_ended_with_an_error(site):
    site.answer("requests", "0 ACTIVE")
    site.answer("machines", "0 READY")
    site.answer("runs", r"0 run: running\nrun: ended with 1", "0 run: ended with 1")
    result, done = watch(site)
    assert (result.returncode, done) == (2, [])
    assert "run: ended with 1" in result.stderr and "cost money" in result.stderr


def test_watch_creates_and_deletes_nothing_while_the_state_is_unknown(site):
    site.answer("requests", "1 no network")
    result, done = watch(site)
    assert (result.returncode, done) == (2, [])
    assert "10 failures in a row" in result.stderr


@pytest.mark.parametrize("what, setups", [("copies", 1), ("setups", 2)])
def test_watch_sets_up_again_where_that_failed_and_starts_nothing_before(
    site, what, setups
):
    site.answer("requests", "0 ACTIVE")
    site.answer("machines", "0 READY")
    site.answer(what, "255 no connection", "0 done")
    none = "0 run: none here"
    site.answer("runs", none, none, "0 run: ended with 0")
    assert watch(site)[1] == [*["setup"] * setups, "begin"]


CHILD = """#!/usr/bin/env bash
echo >>starts
read -r code <codes
sed -i 1d codes
trap 'sleep 2; touch saved; exit 143' TERM
while [ "$code" = wait ]; do sleep 0.02; done
exit "$code"
"""


class Supervised:
    """A command that ends with the given codes, one a start, under supervise.sh."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "child").write_text(CHILD)
        (folder / "child").chmod(0o755)

    def call(self, action: str, *command: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [LAUNCH / "supervise.sh", action, "run", *command],
            env={**os.environ, "RESTART_DELAY": "0", "MAX_FAILURES": "3"},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=30,
        )

    def start(self, *codes: int | str) -> None:
        (self.folder / "starts").write_text("")
        (self.folder / "codes").write_text("".join(f"{code}\n" for code in codes))
        assert "run: started" in self.call("start", "./child").stdout

    def starts(self) -> int:
        return len((self.folder / "starts").read_text())


@pytest.mark.parametrize(
    "codes, starts, last",
    [
        ((0,), 1, 0),
        ((1,), 1, 1),  # an error that a restart does not mend
        ((2,), 1, 2),
        ((75, 143, 137, 0), 4, 0),
        ((75, 1), 2, 1),
        ((143, 143, 143, 143, 143, 0), 6, 0),  # saved each time: no limit
        ((75, 75, 134, 75, 0), 4, 75),  # MAX_FAILURES=3
    ],
)
def test_a_run_is_started_again_only_where_that_can_help(tmp_path, codes, starts, last):
    run = Supervised(tmp_path)
    assert run.call("status").stdout == "run: none here\n"
    run.start(*codes)
    assert run.call("follow").returncode == last
    assert run.call("status").stdout == f"run: ended with {last}\n"
    assert run.starts() == starts


def test_a_run_that_is_stopped_saves_and_is_not_started_again(tmp_path):
    run = Supervised(tmp_path)
    run.start("wait", 0)
    deadline = time.monotonic() + 10
    while run.starts() == 0 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert run.call("status").stdout == "run: running\n"
    assert "running already" in run.call("start", "./child").stdout
    assert "run: ended with 143" in run.call("stop").stdout
    assert run.starts() == 1 and (tmp_path / "saved").exists()
