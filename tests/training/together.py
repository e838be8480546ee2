"""One of several processes that train the toy together, on four devices in all.

`together.py FOLDER PORT COUNT INDEX STEPS WHAT` with WHAT one of

train: nothing happens.
short: process 1 has data for 12 steps only.
signal: process 1 gets SIGTERM in step 12.
nan: the learning rate is such that all soon meet what is not finite.
kill, kill_first: the last or the first process is killed in step 12.
kill_saving: the last process is killed in place of saving step 15.
fail: the last process raises an error in step 12.
freeze: the last process stands still in step 12, as if its network had gone.
damage: every process but the first cannot read the checkpoint of step 10.

Prints the outcome, and losses and final parameters as JSON on the last line.
"""

import json
import os
import signal
import sys
from pathlib import Path

folder, port, count, index, steps, what = sys.argv[1:]
folder, count, index, steps = Path(folder), int(count), int(index), int(steps)
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    f"--xla_force_host_platform_device_count={4 // count} "
    "--xla_backend_optimization_level=0"
)

import jax  # noqa: E402
import numpy as np  # noqa: E402

from simple_diffusion.training import cluster  # noqa: E402

if count > 1:  # before anything asks for the devices
    cluster.join(f"127.0.0.1:{port}", count, index)

from simple_diffusion.data import feed  # noqa: E402
from simple_diffusion.training import (  # noqa: E402
    checkpoint,
    loop,
    sharding,
    store,
)
from tests.training import toy  # noqa: E402


def parts(mesh, start):
    """Yields this process's part of each batch."""
    number, size = start, 8 // count
    part = slice(index * size, (index + 1) * size)
    while not (what == "short" and index == 1 and number == 12):
        yield jax.tree.map(lambda v: v[part], toy.batch(number, 8))
        number += 1


def act(step, state):
    """What happens in mid-run."""
    if step != 12:
        return
    last = index == count - 1
    if what == "signal" and index == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    elif (what == "kill" and last) or (what == "kill_first" and index == 0):
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "freeze" and last:
        os.kill(os.getpid(), signal.SIGSTOP)
    elif what == "fail" and last:
        raise OSError("the disk of this host is full")


def main():
    mesh = sharding.make_mesh(2, -1)
    if what == "kill_saving" and index == count - 1:

        def killed(self, step, state, honest=checkpoint.Checkpoints.save):
            if step == 15:
                os.kill(os.getpid(), signal.SIGKILL)
            honest(self, step, state)

        checkpoint.Checkpoints.save = killed
    if what == "damage" and index:

        def unreadable(self, step, read, honest=store.Store._read_together):
            broken = step == 10
            return honest(self, step, (lambda: 1 / 0) if broken else read)

        store.Store._read_together = unreadable

    def open_batches(start):
        return feed.Feed(parts(mesh, start), sharding.batch_sharding(mesh))

    def say(line):
        print(line, flush=True)

    changes = {"train_step": toy.train_step(rate=1e38)} if what == "nan" else {}
    # Short only where it matters: a loaded machine is silent for seconds, too.
    silence = 6 if what.startswith("kill") or what == "freeze" else 60
    watch = cluster.Watchdog(say, warn_after=60, heartbeat_timeout=silence)
    with watch:
        outcome = toy.train(
            folder,
            steps,
            say=say,
            every=1,
            plan=toy.blueprint(mesh),
            open_batches=open_batches,
            mesh=mesh,
            # Seldom: a step before which something is shown waits for its votes.
            actions=[loop.Action(12, act)],
            **changes,
            watch=watch,
        )
    whole = jax.jit(lambda tree: tree, out_shardings=sharding.replicated_sharding(mesh))
    leaves = [np.ravel(v).tolist() for v in jax.tree.leaves(whole(outcome.state))]
    record = {"status": outcome.status, "step": int(outcome.state.step)}
    print(json.dumps(record | {"state": leaves}), flush=True)


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        if isinstance(error, cluster.CollectiveError):
            sys.exit(1)
        os._exit(1)
