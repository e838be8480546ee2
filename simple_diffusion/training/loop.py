"""The training loop: restore, step, report, save; stop cleanly, whatever happens.

All processes of a run go through it in step. What only one of them knows, a signal or
the end of its data, travels as a vote with the next step; the votes come back with the
metrics, and all stop after the same step.
"""

import collections
import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from simple_diffusion.core.types import Batch
from simple_diffusion.training import cluster, sharding, step
from simple_diffusion.training.checkpoint import Checkpoints
from simple_diffusion.training.report import Report
from simple_diffusion.training.state import Blueprint, TrainState

COMPLETE = "complete"
ALREADY_COMPLETE = "already complete"
STOPPED = "stopped"  # by a signal; a checkpoint was saved

_WARM = 4  # the step of a run at which a trace begins

# Votes of a process; the highest counts. From _NO_DATA on they say which process it is.
_GO_ON, _STOP, _NO_DATA = 0, 1, 2
# A vote cast with step n is known to all when step n + 1 is already on its way: whoever
# votes for the end of the data must still have the batch of that one.
_AHEAD = 2


class Outcome(NamedTuple):
    """How a run ended: its last state, and one of the words above."""

    state: TrainState
    status: str


class Action(NamedTuple):
    """Something to do every so often, such as sampling a grid.

    every: steps from one time to the next; it is also done after the last step.
    run: (step, state) -> None.
    """

    every: int
    run: Callable[[int, TrainState], None]


class Profile(NamedTuple):
    """A trace of a few steps, to be looked at in TensorBoard.

    steps: how many; the first ones after the start are left out, they compile.
    folder: where to.
    """

    steps: int
    folder: str


class NotFinite(cluster.Agreed, FloatingPointError):
    """Training met a loss, gradient or parameter that is not finite, and stopped."""


class NoData(cluster.Agreed, ValueError):
    """A process could not read its part of a batch."""


def train(
    train_step: step.TrainStep,
    plan: Blueprint,
    open_batches: Callable[[int], Iterator[Batch]],
    *,
    mesh: Mesh,
    total_steps: int,
    checkpoints: Checkpoints,
    save_every: int,
    report: Report,
    actions: Sequence[Action] = (),
    skips_allowed: int = 0,
    profile: Profile | None = None,
    watch: cluster.Watch | None = None,
) -> Outcome:
    """Trains from the newest checkpoint, or from the start, to `total_steps`.

    Args:
      train_step: see `step.make_train_step`.
      plan: the state to begin with.
      open_batches: step -> the batches from that step on, endless, already on the
        devices as `sharding.batch_sharding` says. Its `close`, if any, is called.
      mesh: the devices.
      total_steps: where to stop.
      checkpoints: where to resume from and save to.
      save_every: steps between two checkpoints; the last step is always saved.
      report: takes the metrics.
      actions: what else to do, see `Action`.
      skips_allowed: how many steps in a row may be skipped because they are not finite.
      profile: steps of which to write a trace.
      watch: is told what is being waited for.

    Returns:
      the last state and how the run ended. On SIGTERM or SIGINT, to whichever process,
      all save the state after the step that is under way or the one after it, and the
      status is `STOPPED`.

    Raises:
      NotFinite: more steps in a row than allowed were not finite. None of them changed
        the state or was saved.
      NoData: batches ended or could not be read; the state was saved.
      CheckpointError: a checkpoint could not be read or written.
    """
    watch = watch or cluster.Watch(report.say)
    watch.doing("restoring the newest checkpoint")
    restored = checkpoints.restore(plan.abstract)
    state = plan.create() if restored is None else restored
    done = int(state.step)
    if done >= total_steps:
        report.say(f"the run is complete: step {done} of {total_steps}")
        return Outcome(state, ALREADY_COMPLETE)

    compiled = jit_step(_voting(train_step), plan.shardings, mesh, votes=True)
    ballot = cluster.Ballot(mesh)
    report.begin(done)
    pending = None  # metrics of the step before, still being computed
    with (
        _saved(checkpoints, watch),
        _open(open_batches, done) as opened,
        _signals() as stop,
        contextlib.ExitStack() as trace,
    ):
        batches = _Ahead(opened, watch)
        for now in range(done + 1, total_steps + 1):
            _trace(profile, trace, now - done, state)
            batch, waited = batches.take(now, pending)
            vote = batches.vote or (_STOP if stop.is_set() else _GO_ON)
            compiling = "compiling and " if now == done + 1 else ""
            watch.doing(f"{compiling}computing step {now}", endless=bool(compiling))
            votes = ballot.cast(vote)  # four bytes a device, the one transfer here
            with jax.transfer_guard("disallow"):
                state, metrics = compiled(state, batch, votes)
                verdict = _settle(pending, report, checkpoints, skips_allowed)
            pending = (now, metrics, waited)
            if vote == _STOP and jax.process_count() == 1:
                verdict = _STOP  # there is nobody to wait for

            last = now == total_steps or verdict != _GO_ON
            save = last or now % save_every == 0
            due = [a for a in actions if now % a.every == 0 or now == total_steps]
            if verdict != _GO_ON:  # somebody wants this machine
                due = []
            if save or due:  # nothing is saved or shown before its step is known good
                settled = _settle(pending, report, checkpoints, skips_allowed)
                verdict = max(verdict, settled)
                last, pending = last or verdict != _GO_ON, None
                with report.paused():
                    if save or last:
                        watch.doing(f"saving step {now}")
                        checkpoints.save(now, state)
                    for action in due:
                        watch.doing(f"showing step {now}", endless=True)
                        action.run(now, state)
            if last:
                break
        if now < total_steps and verdict >= _NO_DATA:
            checkpoints.wait()
            raise batches.error(verdict, now)
    if now < total_steps:
        report.say(f"stopped by a signal; saved step {now} of {total_steps}")
        return Outcome(state, STOPPED)
    return Outcome(state, COMPLETE)


def jit_step(
    train_step: Callable[..., Any],
    shardings: TrainState,
    mesh: Mesh,
    votes: bool = False,
) -> Any:
    """Returns the step compiled for a mesh; it reuses the memory of the state.

    Args:
      train_step: (state, batch) -> (state, metrics).
      shardings: of the state.
      mesh: the devices.
      votes: the step takes those of `cluster.Ballot` as a third argument.
    """
    # None: a batch is where it was put, see `sharding.batch_shardings`.
    ballot = [cluster.Ballot(mesh).sharding] if votes else []
    return jax.jit(
        train_step,
        in_shardings=(shardings, None, *ballot),
        out_shardings=(shardings, sharding.replicated(mesh)),
        donate_argnums=0,
    )


def _voting(train_step: step.TrainStep) -> Callable[..., Any]:
    """Returns (state, batch, votes) -> (state, metrics with the highest vote)."""

    def both(
        state: TrainState, batch: Batch, votes: jax.Array
    ) -> tuple[TrainState, step.Metrics]:
        state, metrics = train_step(state, batch)
        return state, metrics | {"vote": cluster.highest(votes)}

    return both


class _Ahead:
    """Batches, taken early enough to know in time that there will be no more."""

    def __init__(self, batches: Iterator[Batch], watch: cluster.Watch):
        self._batches, self._watch = batches, watch
        self._ready: collections.deque[Batch] = collections.deque()
        self._problem: str | None = None
        self._agreed = False

    @property
    def vote(self) -> int:
        """That of this process: whether its data goes on."""
        return _GO_ON if self._problem is None else _NO_DATA + jax.process_index()

    def take(self, now: int, pending: Any) -> tuple[Batch, float]:
        """Returns the batch of step `now`, and how long the devices were idle for it.

        Raises:
          NoData: there is none for the first steps, in this or another process.
        """
        self._watch.doing(f"waiting for the data of step {now}")
        start = time.perf_counter()
        while self._problem is None and len(self._ready) <= _AHEAD:
            try:
                self._ready.append(next(self._batches))
            except StopIteration:
                self._problem = "the data ended; training needs endless batches"
            except Exception as error:
                self._problem = f"the data cannot be read: {error}"
        if not self._agreed:  # from here on the votes tell in time
            self._agreed = True
            if not cluster.all_agree(len(self._ready) > 1):
                why = self._problem or "another process has none"
                raise NoData(f"no data for the first steps, {now} and on: {why}")
        # Waiting costs nothing while the step before is still being computed.
        idle = pending is None or pending[1]["loss"].is_ready()
        waited = (time.perf_counter() - start) if idle else 0.0
        return self._ready.popleft(), waited

    def error(self, verdict: int, now: int) -> NoData:
        """Returns what to raise when the vote has ended the run after step `now`."""
        if self._problem is None:
            who = f"process {verdict - _NO_DATA}"
            self._problem = f"{who} has no more data; its own message says why"
        return NoData(f"stopped after step {now}, which is saved: {self._problem}")


def _settle(
    pending: Any, report: Report, checkpoints: Checkpoints, skips_allowed: int
) -> int:
    """Fetches and reports the metrics of a step; returns what was voted with it.

    Raises:
      NotFinite: it has gone wrong.
    """
    if pending is None:
        return _GO_ON
    now, metrics, waited = pending
    metrics = jax.device_get(metrics)
    bad = step.first_bad_metric(metrics)
    if bad is not None and metrics["skipped_in_row"] > skips_allowed:
        checkpoints.wait()
        raise NotFinite(
            f"step {now}: {bad} is {metrics[bad]}; steps in a row: "
            f"{metrics['skipped_in_row']}. Nothing was changed by them, and the "
            f"checkpoints {checkpoints.steps()} are from before. Lower "
            "optimizer.learning_rate or optimizer.clip_norm, or raise "
            "train.skips_allowed"
        )
    report.record(now, metrics, waited)
    return int(metrics["vote"])


@contextlib.contextmanager
def _open(
    open_batches: Callable[[int], Iterator[Batch]], start: int
) -> Iterator[Iterator[Batch]]:
    batches = open_batches(start)
    try:
        yield iter(batches)
    finally:
        if hasattr(batches, "close"):
            batches.close()  # pyright: ignore[reportAttributeAccessIssue]


@contextlib.contextmanager
def _signals() -> Iterator[threading.Event]:
    """Turns the first SIGTERM or SIGINT into an event; the second one acts as ever."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # Python allows signal handlers in the main thread only
        return
    # None: a handler that was not installed from Python.
    before = {
        s: signal.getsignal(s) or signal.SIG_DFL
        for s in (signal.SIGTERM, signal.SIGINT)
    }

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, frame: Any) -> None:
        stop.set()
        restore()

    for number in before:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        restore()


@contextlib.contextmanager
def _saved(checkpoints: Checkpoints, watch: cluster.Watch) -> Iterator[None]:
    """Sees that a save under way is finished, however the run ends."""
    try:
        yield
    except BaseException as error:
        # With others this is the end, unless they all are here: a save is finished
        # together.
        watch.announce(error)
        watch.doing("finishing the last save")
        checkpoints.wait()
        raise
    watch.doing("finishing the last save")
    checkpoints.wait()


def _trace(
    profile: Profile | None, trace: contextlib.ExitStack, count: int, state: TrainState
) -> None:
    """Begins or ends the trace before step number `count` of this run, if it is due."""
    if profile is not None and count in (_WARM, _WARM + profile.steps):
        jax.block_until_ready(state)
        trace.close()
        if count == _WARM:
            trace.enter_context(jax.profiler.trace(profile.folder))
