"""Trains the toy in a process of its own that is killed: `crash.py WORKDIR KIND`.

KIND "exit": leaves without any clean-up in the middle of the run, between two saves.
KIND "kill": SIGKILL while a checkpoint is being written.
"""

import os
import signal
import sys
from pathlib import Path

from simple_diffusion.training import loop
from tests.training import toy


def main(workdir, kind):
    if kind == "exit":
        crash = loop.Action(13, lambda step, state: os._exit(7))
    else:
        # An action runs when the save of its step has begun and is not yet written.
        crash = loop.Action(
            10, lambda step, state: os.kill(os.getpid(), signal.SIGKILL)
        )
    toy.train(workdir, 20, actions=[crash])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
