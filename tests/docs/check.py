"""Parses the commands of the documentation with the parsers of the programs.

`check` accepts a command or raises an error; it runs nothing. Each kind of program has
one function here, and a program without one is an error, so that no command is left out
in silence.
"""

import argparse
import importlib
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simple_diffusion import command_line, main
from simple_diffusion.build import recipes
from tests.docs.pages import ROOT, Command

# Programs that the library does not define; their flags are not checked.
FOREIGN = {
    "apt-get",
    "cd",
    "docker",
    "export",
    "git",
    "mkdir",
    "python3",
    "rm",
    "tar",
    "/tmp/peer/bin/pip",
}
PYTHON = {"python", ".venv/bin/python"}
MAIN = "simple_diffusion.main"


class Parsed(Exception):
    """Raised when a program has parsed its flags; carries them."""


def main_arguments(command: Command) -> list[str] | None:
    """Returns the arguments that a command gives to `simple_diffusion.main`.

    Returns None if it starts another program.
    """
    program, *arguments = command.words
    if program in PYTHON and arguments[:2] == ["-m", MAIN]:
        return arguments[2:]
    if program == "simple-diffusion":
        return arguments
    if program == "launch/local.sh":
        return arguments or ["--config=quickstart", "--workdir=runs/quickstart"]
    if program == "sbatch":
        return arguments[arguments.index("launch/slurm.sbatch") + 1 :]
    if program == "launch/supervise.sh" and "launch/local.sh" in arguments:
        return arguments[arguments.index("launch/local.sh") + 1 :]
    if program.startswith("launch/") and "--" in arguments:
        return arguments[arguments.index("--") + 1 :]
    return None


def parse_main(arguments: list[str]) -> tuple[command_line.Command, Any]:
    """Returns command and config, as the program reads them in the current folder.

    Raises:
      ValueError: a flag, key, value or recipe is wrong.
    """
    try:
        command = command_line.parse(arguments)
    except SystemExit as end:
        raise ValueError(f"exit code {end.code}; see stderr") from end
    return command, main.read_config(command)


def create_runs(commands: list[Command], folder: Path) -> None:
    """Writes the configs of the runs that commands train, so that others find them."""
    (folder / "configs").symlink_to(ROOT / "configs")
    for command in commands:
        arguments = main_arguments(command)
        if arguments is None:
            continue
        parsed = command_line.parse(arguments)
        if parsed.recipe and not parsed.workdir.startswith(("/", "gs:")):
            path = folder / parsed.workdir / "config.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(recipes.load(parsed.recipe).to_json_best_effort())


def check(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accepts a command, or raises an error that says what is wrong."""
    program, *arguments = command.words
    given = main_arguments(command)
    if given is not None:
        parse_main(given)
    if program in FOREIGN or program == "simple-diffusion":
        return
    if program in PYTHON:
        _check_module(arguments, monkeypatch)
    elif program == "sbatch" or program.startswith("launch/"):
        _check_script(program, arguments)
    elif program == "pip":
        _check_install(arguments)
    elif program.startswith(".venv/bin/"):
        name = program.removeprefix(".venv/bin/")
        assert importlib.metadata.entry_points(group="console_scripts", name=name)
    else:
        raise AssertionError(f"nothing checks {program}")


def _check_module(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    flag, name, *flags = arguments
    assert flag == "-m"
    if name in (MAIN, "pip", "pre_commit"):
        return
    assert (ROOT / f"{name.replace('.', '/')}.py").exists(), name
    module = importlib.import_module(name)
    parse: Callable = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, args: Any = None, space: Any = None):
        raise Parsed(parse(parser, args, space))

    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", [name, *flags])
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        with pytest.raises(Parsed) as stopped:
            module.main()
    config = getattr(stopped.value.args[0], "config", None)
    if isinstance(config, str):
        recipes.load(config)


def _check_script(program: str, arguments: list[str]) -> None:
    if program == "sbatch":
        options = arguments[: arguments.index("launch/slurm.sbatch")]
        assert all(option.startswith("--") for option in options)
        program, arguments = "launch/slurm.sbatch", []
    path = ROOT / program
    assert path.exists() and path.stat().st_mode & 0o111, program
    if program in ("launch/local.sh", "launch/slurm.sbatch"):
        return
    text = path.read_text() + (ROOT / "launch" / "commands.sh").read_text()
    if program == "launch/test.sh":
        assert all(a == "--all" or (ROOT / a).exists() for a in arguments)
        return
    end = arguments.index("--") if "--" in arguments else len(arguments)
    own = arguments[:end]
    if own and not own[0].startswith("-"):
        assert re.search(rf"\b{own[0]}\b", text), own[0]
    if program == "launch/supervise.sh":
        return
    for flag in own[1:]:
        assert flag.split("=")[0] in text, flag


def _check_install(arguments: list[str]) -> None:
    assert arguments[0] == "install"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for target in arguments[1:]:
        extras = re.fullmatch(r"\.(?:\[(.*)\])?", target)
        assert extras, target
        for extra in (extras[1] or "all").split(","):
            assert extra in project["optional-dependencies"], extra
