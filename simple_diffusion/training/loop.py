"""The training loop: restore, step, report, save, and stop cleanly.

All processes of a run execute it in lockstep. An event that only one process observes,
such as a signal or the end of its data, is sent as a vote with the next step. The votes
come back with the metrics, and all processes stop after the same step.
"""

import collections
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from simple_diffusion.core import signals
from simple_diffusion.core.types import Batch
from simple_diffusion.training import cluster, sharding, step
from simple_diffusion.training.checkpoint import Checkpoints
from simple_diffusion.training.report import Report
from simple_diffusion.training.state import Blueprint, TrainState

COMPLETE = "complete"
ALREADY_COMPLETE = "already complete"
STOPPED = "stopped"  # by a signal; a checkpoint was saved

_TRACE_START = 4  # a trace begins at this step, counted from the start of this run

# Votes of a process; the highest wins. A vote of _NO_DATA + k comes from process k.
_CONTINUE, _STOP, _NO_DATA = 0, 1, 2
# A vote cast with step n is known to all when step n + 1 is already running. A process
# that votes for the end of the data must still have the batch of step n + 1.
_PREFETCH = 2


class Outcome(NamedTuple):
    """How a run ended: its last state, and one of the status strings above."""

    state: TrainState
    status: str


class Action(NamedTuple):
    """A periodic action, such as sampling a grid.

    every: steps between two runs of it; it also runs after the last step.
    run: (step, state) -> None.
    """

    every: int
    run: Callable[[int, TrainState], None]


class Profile(NamedTuple):
    """A trace of a few steps for TensorBoard's profiler.

    steps: how many; the first steps of a run are skipped, because they compile.
    folder: where the trace is written.
    """

    steps: int
    folder: str


class NonFiniteError(cluster.CollectiveError, FloatingPointError):
    """Training met a loss, gradient or parameter that is not finite, and stopped."""


class NoDataError(cluster.CollectiveError, ValueError):
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
    watch: cluster.Watchdog | None = None,
) -> Outcome:
    """Trains from the newest checkpoint, or from the start, to `total_steps`.

    Args:
      train_step: see `step.make_train_step`.
      plan: the initial state.
      open_batches: step -> an endless iterator of the batches from that step on, on the
        devices in the layout of `sharding.batch_sharding`. Its `close`, if any, is
        called.
      mesh: the devices.
      total_steps: where to stop.
      checkpoints: where to resume from and save to.
      save_every: steps between two checkpoints; the last step is always saved.
      report: receives the metrics.
      actions: periodic actions, see `Action`.
      skips_allowed: how many consecutive steps may be skipped because they are not
        finite.
      profile: steps for which a trace is written.
      watch: receives the current activity of the loop.

    Returns:
      the last state and how the run ended. After SIGTERM or SIGINT to any process, all
      processes save the state after the current step or the next one, and the status is
      `STOPPED`.

    Raises:
      NonFiniteError: more consecutive steps than allowed were not finite. None of them
        changed the state or was saved.
      NoDataError: batches ended or could not be read; the state was saved.
      CheckpointError: a checkpoint could not be read or written.
    """
    watch = watch or cluster.Watchdog(report.log)
    watch.set_activity("restoring the newest checkpoint")
    restored = checkpoints.restore(plan.abstract)
    state = plan.create() if restored is None else restored
    done = int(state.step)
    if done >= total_steps:
        beyond = (
            f"; train.total_steps is {total_steps} now, raise it to train on"
            if done > total_steps
            else f" of {total_steps}"
        )
        report.log(f"the run is complete: step {done}{beyond}")
        return Outcome(state, ALREADY_COMPLETE)

    compiled = jit_step(_with_votes(train_step), plan.shardings, mesh, votes=True)
    ballot = cluster.Ballot(mesh)
    report.begin(done)
    pending = None  # metrics of the step before, still being computed
    with (
        _finish_saves(checkpoints, watch),
        _open_batches(open_batches, done) as source,
        signals.catch_first() as stop,
        contextlib.ExitStack() as trace,
    ):
        batches = _Prefetcher(source, watch)
        for now in range(done + 1, total_steps + 1):
            _trace(profile, trace, now - done, state)
            batch, waited = batches.take(now, pending)
            vote = batches.vote or (_STOP if stop.is_set() else _CONTINUE)
            compiling = "compiling and " if now == done + 1 else ""
            watch.set_activity(
                f"{compiling}computing step {now}", is_unlimited=bool(compiling)
            )
            votes = ballot.cast(vote)  # four bytes a device, the one transfer here
            with jax.transfer_guard("disallow"):
                state, metrics = compiled(state, batch, votes)
                verdict = _check_metrics(pending, report, checkpoints, skips_allowed)
            pending = (now, metrics, waited)
            if vote == _STOP and jax.process_count() == 1:
                verdict = _STOP  # no other process has to see the vote first

            last = now == total_steps or verdict != _CONTINUE
            save = last or now % save_every == 0
            due = [a for a in actions if now % a.every == 0 or now == total_steps]
            if verdict != _CONTINUE:  # the machine may be needed soon: skip actions
                due = []
            if save or due:  # only states whose metrics are known to be finite
                newest = _check_metrics(pending, report, checkpoints, skips_allowed)
                verdict = max(verdict, newest)
                last, pending = last or verdict != _CONTINUE, None
                with report.exclude_time():
                    if save or last:
                        watch.set_activity(f"saving step {now}")
                        checkpoints.save(now, state)
                    for action in due:
                        watch.set_activity(
                            f"sampling or evaluating step {now}", is_unlimited=True
                        )
                        action.run(now, state)
            if last:
                break
        if now < total_steps and verdict >= _NO_DATA:
            checkpoints.wait()
            raise batches.error(verdict, now)
    if now < total_steps:
        report.log(f"stopped by a signal; saved step {now} of {total_steps}")
        return Outcome(state, STOPPED)
    return Outcome(state, COMPLETE)


def jit_step(
    train_step: Callable[..., Any],
    shardings: TrainState,
    mesh: Mesh,
    votes: bool = False,
) -> Any:
    """Returns the jitted step for a mesh; it donates the memory of the state.

    Args:
      train_step: (state, batch) -> (state, metrics).
      shardings: of the state.
      mesh: the devices.
      votes: whether the step takes the votes of `cluster.Ballot` as a third argument.
    """
    # None: a batch keeps its sharding, see `sharding.batch_shardings`.
    ballot = [cluster.Ballot(mesh).sharding] if votes else []
    return jax.jit(
        train_step,
        in_shardings=(shardings, None, *ballot),
        out_shardings=(shardings, sharding.replicated_sharding(mesh)),
        donate_argnums=0,
    )


def _with_votes(train_step: step.TrainStep) -> Callable[..., Any]:
    """Returns (state, batch, votes) -> (state, metrics with the highest vote)."""

    def step_with_votes(
        state: TrainState, batch: Batch, votes: jax.Array
    ) -> tuple[TrainState, step.Metrics]:
        state, metrics = train_step(state, batch)
        return state, metrics | {"vote": cluster.highest_vote(votes)}

    return step_with_votes


class _Prefetcher:
    """Reads batches ahead, so that the end of the data is known in time for a vote."""

    def __init__(self, batches: Iterator[Batch], watch: cluster.Watchdog):
        self._batches, self._watch = batches, watch
        self._ready: collections.deque[Batch] = collections.deque()
        self._problem: str | None = None
        self._is_start_checked = False

    @property
    def vote(self) -> int:
        """The vote of this process: whether it has more data."""
        return _CONTINUE if self._problem is None else _NO_DATA + jax.process_index()

    def take(self, now: int, pending: Any) -> tuple[Batch, float]:
        """Returns the batch of step `now`, and the seconds that the devices were idle.

        Raises:
          NoDataError: there is no data for the first steps, in this or another process.
        """
        self._watch.set_activity(f"waiting for the data of step {now}")
        start = time.perf_counter()
        while self._problem is None and len(self._ready) <= _PREFETCH:
            try:
                self._ready.append(next(self._batches))
            except StopIteration:
                self._problem = "the data ended; training needs an endless iterator"
            except Exception as error:
                self._problem = f"the data cannot be read: {error}"
        if not self._is_start_checked:  # later on, the votes arrive in time
            self._is_start_checked = True
            if not cluster.all_true(len(self._ready) > 1):
                why = self._problem or "another process has none"
                raise NoDataError(f"no data for the first steps, {now} and on: {why}")
        # Waiting costs nothing while the devices still compute the previous step.
        idle = pending is None or pending[1]["loss"].is_ready()
        waited = (time.perf_counter() - start) if idle else 0.0
        return self._ready.popleft(), waited

    def error(self, verdict: int, now: int) -> NoDataError:
        """Returns the exception to raise when a vote has ended the run at `now`."""
        if self._problem is None:
            who = f"process {verdict - _NO_DATA}"
            self._problem = f"{who} has no more data; its own message says why"
        return NoDataError(f"stopped after step {now}, which is saved: {self._problem}")


def _check_metrics(
    pending: Any, report: Report, checkpoints: Checkpoints, skips_allowed: int
) -> int:
    """Fetches and reports the metrics of a step; returns what was voted with it.

    Raises:
      NonFiniteError: too many consecutive steps were not finite.
    """
    if pending is None:
        return _CONTINUE
    now, metrics, waited = pending
    metrics = jax.device_get(metrics)
    bad = step.first_bad_metric(metrics)
    if bad is not None and metrics["skipped_in_row"] > skips_allowed:
        checkpoints.wait()
        raise NonFiniteError(
            f"step {now}: {bad} is {metrics[bad]}; steps in a row: "
            f"{metrics['skipped_in_row']}. They did not change the state; the "
            f"checkpoints {checkpoints.steps()} are from earlier steps. Lower "
            "optimizer.learning_rate or optimizer.clip_norm, or raise "
            "train.skips_allowed"
        )
    report.record(now, metrics, waited)
    return int(metrics["vote"])


@contextlib.contextmanager
def _open_batches(
    open_batches: Callable[[int], Iterator[Batch]], start: int
) -> Iterator[Iterator[Batch]]:
    batches = open_batches(start)
    try:
        yield iter(batches)
    finally:
        if hasattr(batches, "close"):
            batches.close()  # pyright: ignore[reportAttributeAccessIssue]


@contextlib.contextmanager
def _finish_saves(checkpoints: Checkpoints, watch: cluster.Watchdog) -> Iterator[None]:
    """Waits for pending saves, however the run ends."""
    try:
        yield
    except BaseException as error:
        # With several processes this ends the process, unless all of them raise the
        # same error: a save is a collective operation.
        watch.announce(error)
        watch.set_activity("finishing the last save")
        checkpoints.wait()
        raise
    watch.set_activity("finishing the last save")
    checkpoints.wait()


def _trace(
    profile: Profile | None, trace: contextlib.ExitStack, count: int, state: TrainState
) -> None:
    """Starts or ends the trace before step number `count` of this run, if it is due."""
    if profile is not None and count in (_TRACE_START, _TRACE_START + profile.steps):
        jax.block_until_ready(state)
        trace.close()
        if count == _TRACE_START:
            trace.enter_context(jax.profiler.trace(profile.folder))
