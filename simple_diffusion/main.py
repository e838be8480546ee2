"""The command line: start of the platform, dispatch to a mode.

simple-diffusion train quickstart --workdir runs/quickstart
python -m simple_diffusion.main --config quickstart --workdir runs/quickstart
"""

import faulthandler
import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from simple_diffusion.core import signals

if TYPE_CHECKING:
    from simple_diffusion import command_line

# Other imports are in functions: modules take seconds, in which signals must already
# be handled, and errors of flags and --help need few of them.


def run(arguments: Sequence[str] | None = None) -> None:
    """Runs a command as a process: handles signals, and ends with an exit code."""
    signals.install()
    faulthandler.enable()
    main(sys.argv[1:] if arguments is None else arguments)


def main(arguments: Sequence[str]) -> None:
    """Runs one mode; an error that the user can fix is printed as one line."""
    from simple_diffusion import command_line

    command = command_line.parse(arguments)
    # Before jax and TensorFlow start: their log messages would hide our first lines.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    _start_logging()
    try:
        config = read_config(command)
    except (ValueError, OSError) as error:
        if os.environ.get("SIMPLE_DIFFUSION_TRACEBACK"):
            raise
        sys.exit(f"error: {' '.join(str(error).split())}")

    from simple_diffusion.training import cluster, loop, store

    expected = (
        ValueError,
        OSError,
        store.CheckpointError,
        loop.NonFiniteError,
        ModuleNotFoundError,
    )
    try:
        mode = importlib.import_module(f"simple_diffusion.modes.{command.mode}")
        with signals.unwind():
            if command.distributed:
                cluster.join(
                    command.coordinator, command.process_count, command.process_id
                )
            result = mode.run(config, command.workdir)
    except signals.Stopped as stopped:
        signals.exit_now(stopped.number)
    except expected as error:
        if os.environ.get("SIMPLE_DIFFUSION_TRACEBACK"):
            raise
        message = (
            f"error: {error}\n(set SIMPLE_DIFFUSION_TRACEBACK=1 for the traceback)"
        )
        if isinstance(error, ModuleNotFoundError):  # a plain install can only sample
            message = f"error: {error}: pip install 'simple_diffusion[all]'"
        cluster.exit_process(message, error)
    if getattr(result, "status", None) == loop.STOPPED:
        sys.exit(143)  # as after SIGTERM: tells a scheduler to restart the run


def read_config(command: "command_line.Command") -> Any:
    """Returns the config that a command asks for, with its overrides.

    Without a recipe it is that of the run in the workdir.

    Raises:
      ValueError: there is no such recipe, run or key, or a value is invalid.
      FileNotFoundError: there is no file at the path of the recipe.
    """
    from simple_diffusion.build import recipes
    from simple_diffusion.build.keys import overrides
    from simple_diffusion.core import files
    from simple_diffusion.pipelines import runs

    recipe = command.recipe and files.expand_home(command.recipe)
    if recipe is None:
        folder = files.resolve_folder(command.workdir)
        config = runs.load_config_for(command.mode, folder)
    elif recipe.endswith(".json"):
        config = runs.load_config_file(recipe)
    else:
        config = recipes.load(recipe)
    overrides.apply(config, [overrides.Override(*pair) for pair in command.overrides])
    files.expand_home_in(config)
    recipes.check(config)
    return config


def _start_logging() -> None:
    from absl import flags, logging

    flags.FLAGS.mark_as_parsed()  # for libraries that read theirs
    logging.use_absl_handler()
    logging.set_verbosity(logging.WARNING)


if __name__ == "__main__":
    run()
