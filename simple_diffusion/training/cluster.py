"""Several processes, one run: joining, deciding together, noticing who is gone.

Every process runs the same program and must meet the others at every collective
operation; one that leaves alone lets the others wait for ever. So whatever only one
process knows (a signal, data that ended, a file it cannot read) is decided together:

- `Ballot` carries a vote of each process along with every step, at no cost: the result
  comes back with the metrics, and all see the same one after the same step;
- `all_agree` asks all processes a question where they may wait for each other;
- `Watch` is for the rest: a process that was killed, a network that went away, a disk
  that does not answer. It says what is being waited for, and ends this process when
  another one has failed or shows no sign of life.

With one process all of this is there and does nothing, apart from saying what takes so
long.
"""

import contextlib
import gc
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# For schedulers: nothing is wrong with the run itself, start it again (EX_TEMPFAIL).
LOST = 75
FAILED = 1

_FOLDER = "simple_diffusion"  # of our keys in the store that the processes share


class Agreed(Exception):
    """Raised by all processes at the same point; none has to be told by the others."""


def join(
    coordinator: str | None = None,
    process_count: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins the other processes of the run.

    Args:
      coordinator: HOST:PORT of process 0. Without it, address and numbers come from the
        cluster, where jax knows it: Cloud TPU, SLURM, Open MPI, Kubernetes.
      process_count: of the run.
      process_id: of this process, from 0.

    Raises:
      ValueError: only some of the three are given, or the cluster is not known.
    """
    given = {
        "--coordinator": coordinator,
        "--process_count": process_count,
        "--process_id": process_id,
    }
    missing = [name for name, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        raise ValueError(f"{' and '.join(missing)} must be given as well")
    # Its own way to stop at a signal would take SIGTERM away from the training loop.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(coordinator, process_count, process_id)
    except ValueError as error:
        raise ValueError(
            f"no cluster was recognised ({error}); name it with --coordinator=HOST:PORT"
            " --process_count=N --process_id=I"
        ) from error
    except jax.errors.JaxRuntimeError as error:
        leave(f"error: the other processes of the run did not come: {error}", code=LOST)


def leave(
    message: str, error: BaseException | None = None, code: int = FAILED
) -> NoReturn:
    """Ends this process because of an error, with a message as its last word.

    Not in the way that Python ends, unless all processes end together: jax would wait
    for the others to leave too, and libraries would bury the message under what became
    of their threads.
    """
    if isinstance(error, Agreed) and jax.process_count() > 1:
        sys.exit(message)
    gc.collect()  # what they say of lost results comes now, if at all
    sys.stdout.flush()
    print(message, file=sys.stderr, flush=True)
    os._exit(code)


def all_agree(yes: bool) -> bool:
    """Returns whether all processes say yes; each of them must ask."""
    if jax.process_count() == 1:
        return yes
    votes = multihost_utils.process_allgather(np.array([yes]))
    return bool(np.all(votes))


def first_says(numbers: list[int]) -> list[int]:
    """Returns the list that the first process has; each of them must ask."""
    if jax.process_count() == 1:
        return numbers
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(numbers))))
    padded = np.resize(np.array([*numbers, 0], np.int32), length + 1)
    return np.asarray(multihost_utils.broadcast_one_to_all(padded))[:length].tolist()


class Ballot:
    """A vote of every process in every step."""

    def __init__(self, mesh: Mesh):
        self._one_each = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._mine = len(mesh.local_devices)

    @property
    def sharding(self) -> NamedSharding:
        """Where votes live: one per device."""
        return self._one_each

    def cast(self, vote: int) -> jax.Array:
        """Returns the votes of all processes, int32 [devices]."""
        votes = np.full(self._mine, vote, np.int32)
        return jax.make_array_from_process_local_data(self._one_each, votes)


def highest(votes: jax.Array) -> jax.Array:
    """Returns the highest of all votes, which is known to every process."""
    return jnp.max(votes)


class Watch:
    """Says what a run is waiting for, and ends the process when others are gone.

    A context manager. An exception that leaves it is announced to the other processes,
    which end with its message within seconds, unless it is `Agreed`.

    say: prints a line. Every process says its own: each may wait for another thing.
    patience: seconds without progress after which to say so, and again each time that
      the wait has doubled.
    limit: seconds without progress after which the process ends with `LOST`; 0 waits
      for ever.
    silence: seconds without a sign of life after which another process is lost.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        *,
        patience: float = 60.0,
        limit: float = 0.0,
        silence: float = 60.0,
    ):
        self._say = say
        self._patience, self._limit, self._silence = patience, limit, silence
        # Often enough to be prompt, seldom enough for hundreds of processes.
        self._pause = min(5.0, patience / 4, silence / 6)
        # What is being done, since when, and whether it may take for ever: in one piece
        # because two threads look at it. Nothing yet that is worth a word.
        self._doing: tuple[str, float, bool] | None = None
        self._said = 0.0  # how long it was when a wait was last spoken of
        self._over = threading.Event()
        self._me, self._count = jax.process_index(), jax.process_count()
        self._store: Any = _store() if self._count > 1 else None

    def doing(self, what: str, endless: bool = False) -> None:
        """Notes progress, and what comes next.

        Args:
          what: as it shall be said, such as "saving step 3".
          endless: it may well take hours; the limit does not hold for it.
        """
        if self._said and self._doing:
            before, since, _ = self._doing
            self._tell(f"{before} took {time.monotonic() - since:.0f} s; going on")
        self._doing, self._said = (what, time.monotonic(), endless), 0.0

    def announce(self, error: BaseException) -> None:
        """With others that do not know of the error: tells them, and ends this process.

        Before anything is waited for that needs the others: they may never come.
        """
        if self._store is None or isinstance(error, Agreed) or self._over.is_set():
            return
        if _may_be_others_fault(error):
            # Most likely a connection to a process that is gone. If so, the watch will
            # find out, and ends this process with the right words and exit code.
            time.sleep(self._silence + 4 * self._pause)
        self._over.set()
        with contextlib.suppress(Exception):  # nobody may be left to tell
            self._put("end", f"{type(error).__name__}: {error}")
        self._linger()
        if not isinstance(error, OSError | ValueError | RuntimeError):
            traceback.print_exception(error)
        leave(f"error: process {self._me} of {self._count}: {error}")

    def __enter__(self) -> "Watch":
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            self.announce(error)
        self._over.set()
        self._thread.join()
        if self._store is not None:
            with contextlib.suppress(Exception):
                self._put("done", "")

    def _run(self) -> None:
        # From the beginning, or one that never came would not be missed.
        began = time.monotonic()
        heard = {k: ("", began) for k in range(self._count) if k != self._me}
        while not self._over.wait(self._pause):
            what, since, endless = self._doing or ("", time.monotonic(), True)
            waited = time.monotonic() - since
            if self._limit and waited > self._limit and not endless:
                self._end(f"{what} for {waited:.0f} s, the limit", LOST)
            if waited > max(self._patience, 2 * self._said):
                self._said = waited
                self._tell(f"{what} for {waited:.0f} s")
            if self._store is None:
                continue
            try:
                self._listen(heard)
            except jax.errors.JaxRuntimeError as error:
                self._end(f"process 0 does not answer: {error}", LOST)

    def _listen(self, heard: dict[int, tuple[str, float]]) -> None:
        """Gives a sign of life and looks for those of the others."""
        now = time.monotonic()
        self._put("alive", f"{now}")
        for process, reason in self._get("end").items():
            self._end(f"process {process} stopped: {reason}", FAILED)
        done = self._get("done")
        alive = self._get("alive")
        for process, (before, since) in heard.items():
            sign = alive.get(process, "")
            if sign != before:
                heard[process] = (sign, now)
            elif process not in done and now - since > self._silence:
                self._end(
                    f"process {process} is lost: no sign of life for "
                    f"{self._silence:.0f} s. Start all of them again: the run goes on "
                    "from its last checkpoint",
                    LOST,
                )

    def _end(self, why: str, code: int) -> None:
        """Ends this process from within the watch's thread.

        Not by an exception: the main thread may be waiting for ever, in a call that
        cannot be interrupted.
        """
        self._tell(why)
        sys.stdout.flush()
        sys.stderr.flush()
        self._linger()
        os._exit(code)

    def _linger(self) -> None:
        """Lets the others read the message: the store is in the memory of process 0."""
        if self._store is not None and self._me == 0:
            time.sleep(2 * self._pause)

    def _tell(self, what: str) -> None:
        who = f"process {self._me} of {self._count}: " if self._count > 1 else ""
        self._say(f"{who}{what}")

    def _put(self, kind: str, value: str) -> None:
        self._store.key_value_set(
            f"{_FOLDER}/{kind}/{self._me}", value, allow_overwrite=True
        )

    def _get(self, kind: str) -> dict[int, str]:
        """Returns the values of this kind by process, without this one's."""
        found = self._store.key_value_dir_get(f"{_FOLDER}/{kind}/")
        values = {int(key.rsplit("/", 1)[1]): value for key, value in found}
        values.pop(self._me, None)
        return values


def _store() -> Any:
    """Returns the store of keys and values that the processes of a run share."""
    # Not public, but what other libraries on top of jax use for the same purpose.
    from jax._src import distributed

    return distributed.global_state.client


def _may_be_others_fault(error: BaseException | None) -> bool:
    """Returns whether the error may have come of a connection to another process."""
    if isinstance(error, jax.errors.JaxRuntimeError):
        own = ("RESOURCE_EXHAUSTED", "Out of memory")
        return not any(word in str(error) for word in own)
    return error is not None and _may_be_others_fault(error.__cause__)
