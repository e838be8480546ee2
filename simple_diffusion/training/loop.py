"""The training loop: restore, step, report, save; stop cleanly, whatever happens."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from simple_diffusion.core.types import Batch
from simple_diffusion.training import sharding, step
from simple_diffusion.training.checkpoint import Checkpoints
from simple_diffusion.training.report import Report
from simple_diffusion.training.state import Blueprint, TrainState

COMPLETE = "complete"
ALREADY_COMPLETE = "already complete"
STOPPED = "stopped"  # by a signal; a checkpoint was saved

_WARM = 4  # the step of a run at which a trace begins


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


class NotFinite(FloatingPointError):
    """Training met a loss, gradient or parameter that is not finite, and stopped."""


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

    Returns:
      the last state and how the run ended. On SIGTERM or SIGINT the state is saved
      after the step that is under way, and the status is `STOPPED`.

    Raises:
      NotFinite: more steps in a row than allowed were not finite. None of them changed
        the state or was saved.
      CheckpointError: a checkpoint could not be read or written.
      ValueError: the batches ended.
    """
    restored = checkpoints.restore(plan.abstract)
    state = plan.create() if restored is None else restored
    done = int(state.step)
    if done >= total_steps:
        report.say(f"the run is complete: step {done} of {total_steps}")
        return Outcome(state, ALREADY_COMPLETE)

    compiled = jit_step(train_step, plan.shardings, mesh)
    report.begin(done)
    pending = None  # metrics of the step before, still being computed
    with (
        _saved(checkpoints),
        _open(open_batches, done) as batches,
        _signals() as stop,
        contextlib.ExitStack() as trace,
    ):
        for now in range(done + 1, total_steps + 1):
            _trace(profile, trace, now - done, state)
            batch, waited = _next(batches, pending, now)
            with jax.transfer_guard("disallow"):
                state, metrics = compiled(state, batch)
            _settle(pending, report, checkpoints, skips_allowed)
            pending = (now, metrics, waited)

            last = now == total_steps or stop.is_set()
            save = last or now % save_every == 0
            due = [a for a in actions if now % a.every == 0 or now == total_steps]
            if save or due:  # nothing is saved or shown before its step is known good
                _settle(pending, report, checkpoints, skips_allowed)
                pending = None
                with report.paused():
                    if save:
                        checkpoints.save(now, state)
                    for action in due:
                        action.run(now, state)
            if last:
                break
    if now < total_steps:
        report.say(f"stopped by a signal; saved step {now} of {total_steps}")
        return Outcome(state, STOPPED)
    return Outcome(state, COMPLETE)


def jit_step(train_step: step.TrainStep, shardings: TrainState, mesh: Mesh) -> Any:
    """Returns the step compiled for a mesh; it reuses the memory of the state."""
    return jax.jit(
        train_step,
        in_shardings=(shardings, sharding.batch_sharding(mesh)),
        out_shardings=(shardings, sharding.replicated(mesh)),
        donate_argnums=0,
    )


def _next(batches: Iterator[Batch], pending: Any, now: int) -> tuple[Batch, float]:
    """Returns the next batch and how long the devices may have been idle for it."""
    start = time.perf_counter()
    batch = next(batches, None)
    if batch is None:
        raise ValueError(
            f"the data ended before step {now}; training needs endless batches"
        )
    # Waiting costs nothing while the step before is still being computed.
    idle = pending is None or pending[1]["loss"].is_ready()
    return batch, (time.perf_counter() - start) if idle else 0.0


def _settle(
    pending: Any, report: Report, checkpoints: Checkpoints, skips_allowed: int
) -> None:
    """Fetches and reports the metrics of a step; stops if it has gone wrong."""
    if pending is None:
        return
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
    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}

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
def _saved(checkpoints: Checkpoints) -> Iterator[None]:
    """Sees that a save under way is finished, however the run ends."""
    try:
        yield
    finally:
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
