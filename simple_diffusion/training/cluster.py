"""Several processes in one run: joining, collective decisions, failure detection.

Every process runs the same program and must reach every collective operation. If one
process leaves alone, the others wait forever. Events that only one process observes (a
signal, the end of its data, a file it cannot read) therefore lead to a collective
decision:

- `Ballot` sends one vote of each process along with every step, at no cost. The result
  comes back with the metrics, and all processes see it after the same step.
- `all_true` compares a flag over all processes, where they may wait for each other.
- `Watchdog` covers the rest: a killed process, a lost network connection, a disk that
  does not answer. It logs what the run waits for. It ends this process when another one
  has failed or sends no heartbeat.

With one process, only the log messages about long waits remain.
"""

import contextlib
import gc
import itertools
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from simple_diffusion.core import run_lock, signals

# Exit code for schedulers: the run itself is fine, start it again (EX_TEMPFAIL).
EXIT_RETRY = 75
EXIT_FAILED = 1

_FOLDER = "simple_diffusion"  # prefix of our keys in the shared key-value store
_barrier_numbers = itertools.count()


class CollectiveError(Exception):
    """Raised by all processes at the same point, so no process has to announce it."""


def join(
    coordinator: str | None = None,
    process_count: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins the other processes of the run.

    Args:
      coordinator: HOST:PORT of process 0. Without it, jax takes address and numbers
        from the cluster environment: Cloud TPU, SLURM, Open MPI, Kubernetes.
      process_count: number of processes of the run.
      process_id: number of this process, from 0.

    Raises:
      ValueError: only some of the three are given, or no cluster is recognised.
    """
    given = {
        "--coordinator": coordinator,
        "--process_count": process_count,
        "--process_id": process_id,
    }
    missing = [name for name, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        raise ValueError(f"{' and '.join(missing)} must be given as well")
    # jax's preemption service would take SIGTERM away from the training loop.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(coordinator, process_count, process_id)
    except ValueError as error:
        raise ValueError(
            f"no cluster was recognised ({error}); set --coordinator=HOST:PORT"
            " --process_count=N --process_id=I"
        ) from error
    except jax.errors.JaxRuntimeError as error:
        message = f"error: the other processes of the run did not join: {error}"
        exit_process(message, code=EXIT_RETRY)


def exit_process(
    message: str, error: BaseException | None = None, code: int = EXIT_FAILED
) -> NoReturn:
    """Ends this process because of an error; the message is its last output.

    Skips Python's own shutdown unless all processes end together. In a normal shutdown
    jax would wait for the other processes, and libraries would print errors of their
    threads after the message.
    """
    if isinstance(error, CollectiveError) and jax.process_count() > 1:
        sys.exit(message)
    gc.collect()  # warnings about discarded results are printed before the message
    sys.stdout.flush()
    print(message, file=sys.stderr, flush=True)
    os._exit(code)


def all_true(flag: bool) -> bool:
    """Returns whether the flag is true in all processes; a collective operation."""
    if jax.process_count() == 1:
        return flag
    flags = multihost_utils.process_allgather(np.array([flag]))
    return bool(np.all(flags))


def broadcast_from_first(numbers: list[int]) -> list[int]:
    """Returns the list of the first process in all of them; a collective operation."""
    if jax.process_count() == 1:
        return numbers
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(numbers))))
    padded = np.resize(np.array([*numbers, 0], np.int32), length + 1)
    return np.asarray(multihost_utils.broadcast_one_to_all(padded))[:length].tolist()


@contextlib.contextmanager
def hold_workdir(folder: epath.Path, log: Callable[[str], None]) -> Iterator[None]:
    """Holds the lock of a workdir for all processes of this run.

    Raises:
      LockedError: another training holds it.
      OSError: the folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        if jax.process_index() == 0:
            lock = run_lock.hold(
                folder, log=log, stop=lambda reason: exit_process(f"error: {reason}")
            )
            try:
                stack.enter_context(lock)
            except OSError as error:
                raise OSError(
                    f"cannot write to {folder}: {error.strerror or error}. Choose "
                    "another --workdir or change its permissions"
                ) from error
        if jax.process_count() > 1:
            # Not a collective operation: the first of those has limits of its own.
            name = f"{_FOLDER}/barrier/{next(_barrier_numbers)}"
            _store().wait_at_barrier(name, round(2000 * run_lock.STALE_SECONDS))
        yield


class Ballot:
    """Collects one vote of every process in every step."""

    def __init__(self, mesh: Mesh):
        self._sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._local_count = len(mesh.local_devices)

    @property
    def sharding(self) -> NamedSharding:
        """The sharding of the votes: one per device."""
        return self._sharding

    def cast(self, vote: int) -> jax.Array:
        """Returns the votes of all processes, int32 [devices]."""
        votes = np.full(self._local_count, vote, np.int32)
        return jax.make_array_from_process_local_data(self._sharding, votes)


def highest_vote(votes: jax.Array) -> jax.Array:
    """Returns the highest of all votes, the same in every process."""
    return jnp.max(votes)


class Watchdog:
    """Logs what a run waits for, and ends the process when other processes are gone.

    A context manager. An exception that leaves it is announced to the other processes,
    which end with its message within seconds, unless it is a `CollectiveError`.

    log: prints a line. Every process logs for itself, since each may wait for something
      else.
    warn_after: seconds without progress after which the wait is logged, and again each
      time that the wait has doubled.
    timeout: seconds without progress after which the process ends with `EXIT_RETRY`; 0
      waits forever.
    heartbeat_timeout: seconds without a heartbeat after which another process counts as
      lost.
    """

    def __init__(
        self,
        log: Callable[[str], None],
        *,
        warn_after: float = 60.0,
        timeout: float = 0.0,
        heartbeat_timeout: float = 60.0,
    ):
        self._log = log
        self._warn_after, self._timeout = warn_after, timeout
        self._heartbeat_timeout = heartbeat_timeout
        # Often enough to react soon, seldom enough for hundreds of processes.
        self._interval = min(5.0, warn_after / 4, heartbeat_timeout / 6)
        # The current activity, its start, and whether it may take any time. One tuple,
        # because two threads access it. None until the first activity.
        self._activity: tuple[str, float, bool] | None = None
        self._logged_wait = 0.0  # seconds waited when the wait was last logged
        self._finished = threading.Event()
        self._process, self._count = jax.process_index(), jax.process_count()
        self._store: Any = _store() if self._count > 1 else None

    def set_activity(self, activity: str, is_unlimited: bool = False) -> None:
        """Records progress and the activity that starts now.

        Args:
          activity: as it appears in the log, such as "saving step 3".
          is_unlimited: it may take hours; `timeout` does not apply to it.
        """
        if self._logged_wait and self._activity:
            previous, since, _ = self._activity
            waited = time.monotonic() - since
            self._log_line(f"{previous} took {waited:.0f} s; going on")
        self._activity = activity, time.monotonic(), is_unlimited
        self._logged_wait = 0.0

    def announce(self, error: BaseException) -> None:
        """Announces an error to the other processes, and ends this process.

        Call it before any operation that needs the other processes: they may never
        reach it. Does nothing with one process.
        """
        if (
            self._store is None
            or isinstance(error, CollectiveError)
            or self._finished.is_set()
        ):
            return
        if isinstance(error, signals.Stopped):
            # Not announced: the others shall be started again, as after a loss.
            signals.exit_now(error.number)
        if _may_come_from_other_process(error):
            # Most likely a connection to a process that is gone. In that case the
            # thread of the watchdog detects it, and ends this process with the right
            # message and exit code.
            time.sleep(self._heartbeat_timeout + 4 * self._interval)
        self._finished.set()
        with contextlib.suppress(Exception):  # the other processes may be gone
            self._put("end", f"{type(error).__name__}: {error}")
        self._wait_for_readers()
        if not isinstance(error, OSError | ValueError | RuntimeError):
            traceback.print_exception(error)
        exit_process(f"error: process {self._process} of {self._count}: {error}")

    def __enter__(self) -> "Watchdog":
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            self.announce(error)
        self._finished.set()
        self._thread.join()
        if self._store is not None:
            with contextlib.suppress(Exception):
                self._put("done", "")

    def _run(self) -> None:
        # All others from the start, to notice one that never sends a heartbeat.
        start = time.monotonic()
        heartbeats = {k: ("", start) for k in range(self._count) if k != self._process}
        while not self._finished.wait(self._interval):
            current = self._activity or ("", time.monotonic(), True)
            activity, since, is_unlimited = current
            waited = time.monotonic() - since
            if self._timeout and waited > self._timeout and not is_unlimited:
                self._end(f"{activity} for {waited:.0f} s, the limit", EXIT_RETRY)
            if waited > max(self._warn_after, 2 * self._logged_wait):
                self._logged_wait = waited
                self._log_line(f"still {activity}, after {waited:.0f} s")
            if self._store is None:
                continue
            try:
                self._exchange_heartbeats(heartbeats)
            except jax.errors.JaxRuntimeError as error:
                self._end(f"process 0 does not answer: {error}", EXIT_RETRY)

    def _exchange_heartbeats(self, last: dict[int, tuple[str, float]]) -> None:
        """Sends a heartbeat and checks those of the other processes.

        `last` holds the last heartbeat of each process and when it was seen.
        """
        now = time.monotonic()
        self._put("alive", f"{now}")
        for process, reason in self._get("end").items():
            self._end(f"process {process} stopped: {reason}", EXIT_FAILED)
        done = self._get("done")
        alive = self._get("alive")
        for process, (previous, since) in last.items():
            heartbeat = alive.get(process, "")
            if heartbeat != previous:
                last[process] = (heartbeat, now)
            elif process not in done and now - since > self._heartbeat_timeout:
                self._end(
                    f"process {process} is lost: no sign of life for "
                    f"{self._heartbeat_timeout:.0f} s. Start all processes again: the "
                    "run resumes from its last checkpoint",
                    EXIT_RETRY,
                )

    def _end(self, reason: str, code: int) -> None:
        """Ends this process from the thread of the watchdog.

        Not by an exception: the main thread may wait forever in a call that cannot be
        interrupted.
        """
        self._log_line(reason)
        sys.stdout.flush()
        sys.stderr.flush()
        self._wait_for_readers()
        os._exit(code)

    def _wait_for_readers(self) -> None:
        """Waits until the others can have read the message in process 0's store."""
        if self._store is not None and self._process == 0:
            time.sleep(2 * self._interval)

    def _log_line(self, text: str) -> None:
        many = self._count > 1
        prefix = f"process {self._process} of {self._count}: " if many else ""
        self._log(f"{prefix}{text}")

    def _put(self, kind: str, value: str) -> None:
        self._store.key_value_set(
            f"{_FOLDER}/{kind}/{self._process}", value, allow_overwrite=True
        )

    def _get(self, kind: str) -> dict[int, str]:
        """Returns the values of this kind of all other processes, by process."""
        entries = self._store.key_value_dir_get(f"{_FOLDER}/{kind}/")
        values = {int(key.rsplit("/", 1)[1]): value for key, value in entries}
        values.pop(self._process, None)
        return values


def _store() -> Any:
    """Returns the key-value store that the processes of a run share."""
    # Not public, but other libraries on top of jax use it for the same purpose.
    from jax._src import distributed

    return distributed.global_state.client


def _may_come_from_other_process(error: BaseException | None) -> bool:
    """Returns whether a lost connection may have caused the error."""
    if isinstance(error, jax.errors.JaxRuntimeError):
        own = ("RESOURCE_EXHAUSTED", "Out of memory")
        return not any(word in str(error) for word in own)
    return error is not None and _may_come_from_other_process(error.__cause__)
