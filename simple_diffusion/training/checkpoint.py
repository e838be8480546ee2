"""Checkpoints that survive: written behind the step's back, verified when read.

A checkpoint of step n has one part per tree: `params`, `ema_<name>` and `progress`. See
`store` for how they are written. Where the newest is damaged, the one before it is
used.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping

import jax
from absl import logging

from simple_diffusion.core.types import Params
from simple_diffusion.training import ema, store
from simple_diffusion.training.state import TrainState
from simple_diffusion.training.store import CheckpointError

Folder = store.Folder


class Checkpoints:
    """The checkpoints of one training run.

    folder: where they are; made if it does not exist.
    keep: how many of the newest to keep. At least two, or there is nothing to fall back
      to when the newest is damaged.
    keep_every: steps whose checkpoints are kept for ever, as multiples; None for none.
    """

    def __init__(self, folder: Folder, keep: int = 3, keep_every: int | None = None):
        if keep < 2:
            raise ValueError(f"keep at least 2 checkpoints to fall back to, got {keep}")
        self._store = store.Store(folder, keep=keep, keep_every=keep_every)

    def save(self, step: int, state: TrainState) -> None:
        """Begins to save; the state may be donated as soon as this returns.

        Raises:
          CheckpointError: this save could not begin, or the one before it had failed.
        """
        self._store.save(step, _parts(state))

    def restore(self, abstract: TrainState) -> TrainState | None:
        """Returns the newest sound checkpoint, or None if there never was one.

        A damaged checkpoint is moved to the folder `damaged` beside this one, with a
        warning, and the one before it is tried.

        Args:
          abstract: shapes, dtypes and shardings; each device reads only its own part.

        Raises:
          Mismatch: the checkpoint is sound but other arrays are wanted.
          CheckpointError: there are checkpoints and none of them is sound.
        """
        found = self._store.newest(_parts(abstract))
        if found is None:
            return None
        step, parts = found
        logging.info("resuming from step %d of %s", step, self._store.folder)
        progress = parts.pop("progress")
        averages = {name: parts[_average(name)] for name in abstract.ema}
        return TrainState(params=parts["params"], ema=averages, **progress)

    def steps(self) -> list[int]:
        """Returns the steps of which there is a checkpoint, in order."""
        return self._store.steps()

    def wait(self) -> None:
        """Returns when everything is written.

        Raises:
          CheckpointError: it could not be.
        """
        self._store.wait()

    def close(self) -> None:
        """Waits, then ends the threads that write."""
        self._store.close()


class Best:
    """The one checkpoint that a metric was best for so far.

    folder: where it is; made if it does not exist.
    metric: its name, and all that its values must have in common to compare.
    lower: whether less is better.
    """

    def __init__(self, folder: Folder, metric: str, lower: bool):
        self._store = store.Store(folder, keep=1)
        self._metric, self._lower = metric, lower
        self._best: float | None = None
        for step in self._store.steps():
            with contextlib.suppress(store.Damaged):  # the next best takes its place
                note = self._store.note(step)
                if note.get("metric") == metric:  # of another one it says nothing
                    self._best = note["value"]

    @staticmethod
    def forget_after(folder: Folder, step: int) -> None:
        """Removes a best checkpoint of a step that was lost and will be made again."""
        with contextlib.closing(store.Store(folder, keep=1)) as saved:
            for later in [s for s in saved.steps() if s > step]:
                saved.delete(later)

    def offer(self, step: int, state: TrainState, value: float) -> bool:
        """Saves the state if the metric is better than ever; returns whether it is.

        Raises:
          CheckpointError: it cannot be saved.
        """
        best = self._best
        if not math.isfinite(value):
            return False
        if best is not None and (value >= best if self._lower else value <= best):
            return False
        note = {"metric": self._metric, "value": value}
        self._store.save(step, _parts(state), note)
        self._best = value
        return True

    def close(self) -> None:
        """Waits, then ends the threads that write."""
        self._store.close()


class Snapshots:
    """Power-function averages kept for ever, to make one of any length afterwards.

    folder: where they are; made if it does not exist.
    averages: the tracked averages; those of power-function profile are kept.
    """

    def __init__(self, folder: Folder, averages: Mapping[str, ema.Average]):
        self._sigma_rels = {
            name: average.sigma_rel
            for name, average in averages.items()
            if isinstance(average, ema.PowerFunction)
        }
        self._store = store.Store(folder, keep=None)

    def save(self, step: int, state: TrainState) -> None:
        """Begins to save the averages; raises as `Checkpoints.save` does."""
        parts = {_average(name): state.ema[name] for name in self._sigma_rels}
        note = {"updates": int(state.updates), "sigma_rels": self._sigma_rels}
        self._store.save(step, parts, note)

    def close(self) -> None:
        """Waits, then ends the threads that write."""
        self._store.close()


def reconstruct(
    folder: Folder, sigma_rel: float, abstract: Params, step: int | None = None
) -> Params:
    """Returns the average of a wanted length from stored snapshots, on the host.

    Args:
      folder: that of `Snapshots`.
      sigma_rel: the wanted relative length, see `ema.PowerFunction`.
      abstract: shapes and dtypes of the parameters.
      step: where the average shall end; by default, at the newest snapshot.

    Raises:
      CheckpointError: there is no snapshot up to that step, or one does not fit.
    """
    snapshots = store.Store(folder, read_only=True)
    steps = [s for s in snapshots.steps() if step is None or s <= step]
    if not steps:
        raise CheckpointError(
            f"no snapshot of the averages up to step {step} in {folder}; snapshots are "
            f"taken where a power-function average is tracked in training"
        )
    notes = {s: snapshots.note(s) for s in steps}
    stored = [(s, name) for s in steps for name in sorted(notes[s]["sigma_rels"])]
    weights = ema.reconstruction_weights(
        [notes[s]["updates"] for s, _ in stored],
        [notes[s]["sigma_rels"][name] for s, name in stored],
        notes[steps[-1]]["updates"],
        sigma_rel,
    )

    # Each process reads all of it into its own memory, where it is added up.
    host = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    whole = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=host),
        abstract,
    )

    def read() -> Iterator[Params]:  # one at a time: together they fill the memory
        for s, name in stored:
            yield snapshots.read(s, {_average(name): whole})[_average(name)]

    with contextlib.closing(snapshots):
        return ema.combine(read(), weights)


def restore_params(
    folder: Folder,
    abstract: Params,
    average: str | None = "main",
    step: int | None = None,
) -> tuple[int, Params]:
    """Returns (step, parameters) for sampling; reads nothing else and changes nothing.

    Args:
      folder: that of `Checkpoints`.
      abstract: shapes, dtypes and shardings of the parameters.
      average: the name of a tracked average, or None for the parameters themselves.
      step: of the checkpoint; by default the newest sound one.

    Raises:
      CheckpointError: there is no such checkpoint, or it does not fit.
    """
    part = "params" if average is None else _average(average)
    with contextlib.closing(store.Store(folder, read_only=True)) as saved:
        if step is not None:
            return step, saved.read(step, {part: abstract})[part]
        found = saved.newest({part: abstract})
    if found is None:
        raise CheckpointError(f"there is no checkpoint in {folder}; train first")
    return found[0], found[1][part]


def _parts(state: TrainState) -> store.Trees:
    averages = {_average(name): tree for name, tree in state.ema.items()}
    progress = {
        name: getattr(state, name)
        for name in ("step", "opt_state", "skipped", "skipped_in_row")
    }
    return {"params": state.params, **averages, "progress": progress}


def _average(name: str) -> str:
    return f"ema_{name}"
