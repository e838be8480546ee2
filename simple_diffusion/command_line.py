"""The words and flags of the command line, as a `Command`.

Both forms mean the same:

  simple-diffusion train quickstart --workdir runs/x
  simple-diffusion --mode train --config quickstart --workdir runs/x
"""

import argparse
import dataclasses
import difflib
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

import simple_diffusion

MODES = ("train", "sample", "evaluate", "restore", "sweep", "report", "export")
# Commands with flags of their own.
_OTHER_COMMANDS = ("prepare", "convert")
_USAGE = "simple-diffusion [MODE] [RECIPE] --workdir FOLDER [--config.KEY=VALUE ...]"
_HELP = """\
modes:
  train      train a recipe, or continue the run in --workdir (the default)
  sample     draw images             evaluate  measure their quality
  restore    repair images           sweep     compare guidance and steps
  report     write report.html       export    write a folder for simple_diffusion.load

examples:
  simple-diffusion train quickstart --workdir runs/x
  simple-diffusion train quickstart --workdir runs/mine --config.data.source=folder:pics
  simple-diffusion sample --workdir runs/x --config.sample.count=16

Without a recipe the config is that of the run in --workdir.
configs/base.py lists every KEY with its default. For data and published weights:
  python -m simple_diffusion.modes.prepare --help
  python -m simple_diffusion.modes.convert --help
"""
_FLAGS = (
    "config",
    "workdir",
    "mode",
    "distributed",
    "coordinator",
    "process_count",
    "process_id",
    "help",
    "version",
)


@dataclasses.dataclass(frozen=True)
class Command:
    """What the user asked for.

    recipe: name or path of a recipe, or a config.json; None for the run in the workdir.
    overrides: (key, value) of each --config.KEY=VALUE; None for a key without value.
    coordinator, process_count, process_id: see `training.cluster.join`.
    """

    mode: str
    recipe: str | None
    overrides: tuple[tuple[str, str | None], ...]
    workdir: str
    distributed: bool
    coordinator: str | None
    process_count: int | None
    process_id: int | None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        fail(message)


def fail(message: str) -> NoReturn:
    """Ends the process: the command itself is wrong."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(2)


def parse(arguments: Sequence[str]) -> Command:
    """Returns the command; ends the process with code 2 if it is wrong."""
    rest, overrides = _split_overrides(arguments)
    values, unknown = _parser().parse_known_intermixed_args(rest)
    for argument in unknown:
        fail(_describe_unknown(argument))
    mode, recipe = _read_words(values.words)
    if mode and values.mode and mode != values.mode:
        fail(f"{mode} and --mode={values.mode} contradict each other; give one of them")
    if recipe and values.config and recipe != values.config:
        fail(
            f"{recipe} and --config={values.config} contradict each other; give one of "
            "them"
        )
    if not values.workdir:
        fail("--workdir=FOLDER is missing: the folder of the run, such as runs/x")
    return Command(
        mode or values.mode or "train",
        recipe or values.config,
        tuple(overrides),
        values.workdir,
        values.distributed,
        values.coordinator,
        values.process_count,
        values.process_id,
    )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="simple-diffusion",
        usage=_USAGE,
        description=simple_diffusion.__doc__,
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("words", nargs="*", metavar="MODE RECIPE", help="see below")
    add(
        "--workdir", metavar="FOLDER", help="of the run: checkpoints, pictures, metrics"
    )
    add(
        "--config",
        metavar="RECIPE",
        help="quickstart, imagenet512:uvit (a variant), mine.py, runs/x/config.json",
    )
    add("--mode", metavar="MODE", choices=MODES, help="see below")
    add("--version", action="version", version=simple_diffusion.__version__)
    several = parser.add_argument_group("several processes")
    add = several.add_argument
    add("--distributed", action="store_true", help="join the processes of the cluster")
    add("--coordinator", metavar="HOST:PORT", help="process 0, if jax cannot find it")
    add("--process_count", metavar="N", type=int, help="number of processes")
    add("--process_id", metavar="I", type=int, help="of this process, from 0")
    return parser


def _split_overrides(
    arguments: Sequence[str],
) -> tuple[list[str], list[tuple[str, str | None]]]:
    """Returns the other arguments, and the overrides of config keys."""
    rest: list[str] = []
    overrides: list[tuple[str, str | None]] = []
    queue = list(arguments)
    while queue:
        argument = queue.pop(0)
        match = re.fullmatch(r"--?(no)?config\.([^=]*)(?:=(.*))?", argument, re.DOTALL)
        if match is None:
            rest += _normalise(argument)
            continue
        negated, key, text = match.groups()
        if negated:
            text = "false"
        elif text is None and queue and not re.match(r"--?[a-z]", queue[0]):
            text = queue.pop(0)
        overrides.append((key, text))
    return rest, overrides


def _normalise(argument: str) -> list[str]:
    """Returns a flag in the one form that the parser knows."""
    match = re.fullmatch(r"--?(no)?(\w+)(=.*)?", argument, re.DOTALL)
    if match is None or match[2] not in _FLAGS:
        return [argument]
    negated, name, value = match.groups()
    if name == "distributed":
        is_true = (value or "=true").lower() in ("=true", "=1", "=t")
        return ["--distributed"] if is_true and not negated else []
    return [argument] if negated else [f"--{name}{value or ''}"]


def _read_words(words: list[str]) -> tuple[str | None, str | None]:
    """Returns mode and recipe."""
    if len(words) > 2:
        fail(
            f"unexpected words: {' '.join(words[2:])}. Only a mode and a recipe go "
            "without a flag, as in: simple-diffusion train quickstart --workdir runs/x"
        )
    if words and words[0] in _OTHER_COMMANDS:
        fail(
            f"{words[0]} has flags of its own: python -m simple_diffusion.modes."
            f"{words[0]} --help"
        )
    if words and words[0] not in MODES:
        close = difflib.get_close_matches(words[0], MODES, n=1)
        hint = f"did you mean {close[0]}?" if close else "a recipe comes second"
        fail(
            f"{words[0]} is no mode; the first word must be one of: {', '.join(MODES)} "
            f"({hint})"
        )
    mode, recipe = [*words, None, None][:2]
    return mode, recipe


def _describe_unknown(argument: str) -> str:
    name = argument.lstrip("-").partition("=")[0]
    if "." in name:
        value = argument.lstrip("-")
        return (
            f"unknown flag {argument}; keys of the config begin with --config.: "
            f"--config.{value}"
        )
    close = difflib.get_close_matches(name, _FLAGS, n=1)
    known = ", ".join(f"--{flag}" for flag in _FLAGS)
    hint = f"; did you mean --{close[0]}?" if close else f"; flags are {known}"
    return f"unknown flag {argument}{hint}"
