"""The command line: flags, start of the platform, dispatch to a mode.

python -m simple_diffusion.main --config quickstart --workdir runs/quickstart
"""

import importlib
import os
import signal
import sys

# Set before jax and TensorFlow start: their log messages would hide our first lines.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

from absl import app, flags, logging
from ml_collections import config_flags

from simple_diffusion.build import recipes
from simple_diffusion.training import cluster
from simple_diffusion.training.checkpoint import CheckpointError
from simple_diffusion.training.loop import STOPPED, NonFiniteError

MODES = ("train", "sample", "evaluate", "restore", "sweep", "report", "export")
# Errors that the user can fix.
_EXPECTED = (ValueError, OSError, CheckpointError, NonFiniteError, ModuleNotFoundError)

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,  # the errors of a default could not be caught
    "Recipe by name or path: imagenet512, configs/imagenet512.py; imagenet512:uvit "
    "picks a variant, --config.a.b=c overrides a key.",
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run: checkpoints, pictures, metrics."
)
_MODE = flags.DEFINE_enum("mode", "train", MODES, "What to do.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "Join the other processes of the cluster (Cloud TPU, SLURM, Open MPI, GKE). If jax "
    "does not recognise the cluster, describe it by the three flags below.",
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0.")
_PROCESS_COUNT = flags.DEFINE_integer("process_count", None, "Number of processes.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Index of this process, from 0.")


def main(argv: list[str]) -> None:
    """Runs one mode; an error that the user can fix is printed as one line."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    logging.set_verbosity(logging.WARNING)
    if os.getpid() == 1:  # in a container, where signals without handler are ignored
        signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    try:
        mode = importlib.import_module(f"simple_diffusion.modes.{_MODE.value}")
        if _DISTRIBUTED.value:
            flag_values = _COORDINATOR.value, _PROCESS_COUNT.value, _PROCESS_ID.value
            cluster.join(*flag_values)
        recipes.check(_CONFIG.value)
        result = mode.run(_CONFIG.value, _WORKDIR.value)
    except _EXPECTED as error:
        if os.environ.get("SIMPLE_DIFFUSION_TRACEBACK"):
            raise
        message = (
            f"error: {error}\n(set SIMPLE_DIFFUSION_TRACEBACK=1 for the traceback)"
        )
        if isinstance(error, ModuleNotFoundError):  # a plain install can only sample
            message = f"error: {error}: pip install 'simple_diffusion[all]'"
        cluster.exit_process(message, error)
    if getattr(result, "status", None) == STOPPED:
        sys.exit(128 + signal.SIGTERM)  # tells a scheduler to restart the run


def parse(argv: list[str]) -> list[str]:
    """Parses the flags; an unknown recipe or key is an error of one line, too."""
    try:
        return app.parse_flags_with_usage(_with_paths(argv))
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        if os.environ.get("SIMPLE_DIFFUSION_TRACEBACK"):
            raise
        sys.exit(f"error: in --config or a key of it: {error}")


def _with_paths(argv: list[str]) -> list[str]:
    """Returns the arguments with the path of the recipe that --config names."""
    argv = list(argv)
    for k, argument in enumerate(argv):
        flag, equals, value = argument.partition("=")
        if flag in ("-config", "--config") and (equals or k + 1 < len(argv)):
            text = value if equals else argv[k + 1]
            recipes.load(text)  # the flag would hide errors of a recipe in its own
            path = recipes.resolve(text)
            argv[k if equals else k + 1] = f"{flag}={path}" if equals else path
    return argv


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=parse)
