"""The launch scripts, in a copy of the repository with a stand-in for Python."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Makes a copy of itself as the environment's python, and notes how it was called.
STAND_IN = """#!/usr/bin/env bash
case "$*" in
  "-c import sys, ensurepip, venv"*) exit {found} ;;
  "--version") echo "Python 3.8.1"; exit ;;
  "-m pip --version") exit ;;
  "-m venv --clear .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
  "-m pip install"*)
    ! [ -e no-network ] || exit 1
    printf '#!/bin/sh\necho shellcheck "$@" >>calls\n' >.venv/bin/shellcheck
    chmod +x .venv/bin/shellcheck ;;
esac
printf '%s\\n' "$*" >>calls
printf '%s|' "$PWD" "${{GLIBC_TUNABLES:-}}" "${{JAX_PLATFORMS:-}}" "$@" >last
"""


class Clone:
    """A copy of what the scripts read, and one way to call them."""

    def __init__(self, folder: Path):
        self.folder = folder / "a clone"
        self.folder.mkdir()
        shutil.copytree(ROOT / "launch", self.folder / "launch")
        for path in (*ROOT.glob("requirements*.txt"), ROOT / "constraints.txt"):
            shutil.copy(path, self.folder)
        self.python = self.write_python("python", found=0)

    def write_python(self, name: str, found: int) -> Path:
        path = self.folder / name
        path.write_text(STAND_IN.format(found=found))
        path.chmod(0o755)
        return path

    def run(self, script: str, *flags: str, **variables: str):
        (self.folder / "calls").unlink(missing_ok=True)
        env = {"PATH": os.environ["PATH"], "PYTHON": str(self.python), **variables}
        command = [self.folder / "launch" / script, *flags]
        return subprocess.run(
            command, env=env, cwd="/", capture_output=True, text=True, timeout=60
        )

    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()

    def installs(self) -> list[str]:
        return [call for call in self.calls() if call.startswith("-m pip install")]

    def last(self) -> list[str]:
        return (self.folder / "last").read_text().split("|")[:-1]


@pytest.fixture
def clone(tmp_path) -> Clone:
    return Clone(tmp_path)


def test_the_first_call_sets_up_and_the_second_only_runs(clone):
    assert clone.run("local.sh").returncode == 0
    assert len(clone.installs()) == 1 and "-m venv --clear .venv" in clone.calls()
    assert clone.run("local.sh").returncode == 0
    quickstart = "--config configs/quickstart.py --workdir runs/quickstart"
    assert clone.calls() == [f"-m simple_diffusion.main {quickstart}"]


def test_flags_arrive_as_they_were_given_and_in_the_root(clone):
    clone.run("local.sh", "--config", "a b.py", "--config.data.source=folder:$x *")
    where, *_, one, two, three = clone.last()
    assert where == str(clone.folder)
    assert (one, two, three) == (
        "--config",
        "a b.py",
        "--config.data.source=folder:$x *",
    )


@pytest.mark.parametrize("changed", ["requirements.txt", "constraints.txt"])
def test_a_changed_requirement_is_installed_into_the_same_environment(clone, changed):
    clone.run("local.sh")
    with open(clone.folder / changed, "a") as file:
        file.write("jax-something==1\n")
    clone.run("local.sh")
    assert len(clone.installs()) == 1 and "-m venv --clear .venv" not in clone.calls()


def test_an_installation_that_failed_is_tried_again(clone):
    (clone.folder / "no-network").touch()
    assert clone.run("local.sh").returncode != 0
    (clone.folder / "no-network").unlink()
    assert clone.run("local.sh").returncode == 0
    assert len(clone.installs()) == 1


def test_tests_add_their_requirements_and_leave_the_first_ones(clone):
    clone.run("local.sh")
    assert clone.run("test.sh", "--all", "-k", "one").returncode == 0
    assert len(clone.installs()) == 1
    assert "--requirement requirements-test.txt" in clone.installs()[0]
    pytest_call = ["-m", "pytest", *"-n auto --dist loadfile --durations 10".split()]
    assert clone.last()[-len(pytest_call) - 2 :] == [*pytest_call, "-k", "one"]
    assert clone.run("test.sh", "-k", "one").returncode == 0
    assert clone.last()[-4:] == ["-m", "not slow", "-k", "one"]
    (shell,) = [call for call in clone.calls() if call.startswith("shellcheck")]
    assert "launch/slurm.sbatch" in shell and "launch/environment.sh" in shell


def test_the_documentation_adds_its_requirements_and_is_built_strictly(clone):
    assert clone.run("docs.sh").returncode == 0
    assert "--requirement requirements-docs.txt" in clone.installs()[1]
    assert clone.last()[-4:] == ["-m", "mkdocs", "build", "--strict"]
    clone.run("docs.sh", "serve")
    assert clone.installs() == []
    assert clone.last()[-4:] == ["-m", "mkdocs", "serve", "--strict"]


def test_setup_installs_and_runs_nothing(clone):
    assert clone.run("setup.sh").returncode == 0
    assert len(clone.installs()) == 1 and clone.calls()[-1] == clone.installs()[0]


def test_where_nothing_may_be_installed_the_error_says_what_to_run_first(clone):
    refused = clone.run("local.sh", ACCELERATOR="tpu", INSTALL="no")
    assert refused.returncode == 1
    assert "first run ACCELERATOR=tpu launch/setup.sh" in refused.stderr
    clone.run("setup.sh", ACCELERATOR="tpu")
    assert clone.run("local.sh", ACCELERATOR="tpu", INSTALL="no").returncode == 0
    assert clone.installs() == []


def test_an_accelerator_picks_its_jax_and_leaves_the_cpu_settings_alone(clone):
    clone.run("local.sh", GLIBC_TUNABLES="a=1")
    assert clone.last()[1:3] == ["glibc.malloc.hugetlb=1:a=1", "cpu"]
    clone.run("local.sh", ACCELERATOR="cuda")
    assert "jax[cuda13]" in clone.installs()[0]
    assert clone.last()[1:3] == ["", ""]
    clone.run("local.sh", ACCELERATOR="tpu")
    assert "jax[tpu] google-cloud-storage --constraint" in clone.installs()[0]
    refused = clone.run("local.sh", ACCELERATOR="abacus")
    assert "ACCELERATOR=abacus must be cpu, cuda or tpu" in refused.stderr


def test_a_python_that_is_too_old_is_named_in_the_error(clone):
    old = clone.write_python("old", found=1)
    refused = clone.run("local.sh", PYTHON=str(old))
    assert refused.returncode == 1
    assert f"{old}: Python 3.8.1" in refused.stderr
    assert "Python 3.11, 3.12 or 3.13" in refused.stderr
