"""The command line: flags, start of the platform, dispatch to a mode.

python -m simple_diffusion.main --config quickstart --workdir runs/quickstart
"""

import importlib
import os
import signal
import sys

# Before jax and TensorFlow start: their banners would bury our first lines.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

from absl import app, flags, logging
from ml_collections import config_flags

from simple_diffusion.build import recipes
from simple_diffusion.training import cluster
from simple_diffusion.training.checkpoint import CheckpointError
from simple_diffusion.training.loop import STOPPED, NonFiniteError

MODES = ("train", "sample", "evaluate", "restore", "sweep", "report", "export")
# What goes wrong for a reason that the user can mend.
_EXPECTED = (ValueError, OSError, CheckpointError, NonFiniteError, ModuleNotFoundError)

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,  # a default would be parsed before its errors can be caught
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
    "Join the other processes of the cluster (Cloud TPU, SLURM, Open MPI, GKE); where "
    "jax does not recognise it, name it by the three flags below.",
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0.")
_PROCESS_COUNT = flags.DEFINE_integer("process_count", None, "Processes of the run.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this one, from 0.")


def main(argv: list[str]) -> None:
    """Runs one mode; what goes wrong for a reason the user can mend is one line."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    logging.set_verbosity(logging.WARNING)
    if os.getpid() == 1:  # of a container, where what has no handler is ignored
        signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    try:
        mode = importlib.import_module(f"simple_diffusion.modes.{_MODE.value}")
        if _DISTRIBUTED.value:
            place = _COORDINATOR.value, _PROCESS_COUNT.value, _PROCESS_ID.value
            cluster.join(*place)
        result = mode.run(_CONFIG.value, _WORKDIR.value)
    except _EXPECTED as error:
        if os.environ.get("SIMPLE_DIFFUSION_TRACEBACK"):
            raise
        message = f"error: {error}\n(set SIMPLE_DIFFUSION_TRACEBACK=1 to see where)"
        if isinstance(error, ModuleNotFoundError):  # the plain install only samples
            message = f"error: {error}: pip install 'simple_diffusion[all]'"
        cluster.exit_process(message, error)
    if getattr(result, "status", None) == STOPPED:
        sys.exit(128 + signal.SIGTERM)  # so that a scheduler knows to start it again


def parse(argv: list[str]) -> list[str]:
    """Parses the flags; what a recipe or config does not have is one line, too."""
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
            recipes.load(text)  # the flag would wrap the errors of a recipe in others
            path = recipes.resolve(text)
            argv[k if equals else k + 1] = f"{flag}={path}" if equals else path
    return argv


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=parse)
