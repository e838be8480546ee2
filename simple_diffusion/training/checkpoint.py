"""Checkpoints of a run: written asynchronously, verified when read.

A checkpoint of step n has one part per tree: `params`, `ema_<name>` and `progress`. See
`store` for how they are written. If the newest one is damaged, the one before it is
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

# From this distance on `reconstruct` warns. It is about that between two profiles whose
# lengths differ by a tenth: beyond it the average has no longer the length asked for.
# EDM2's own setting (lengths 0.05 and 0.10, 16 snapshots or more) stays below it for
# all lengths from 0.03 to 0.25.
FAR_PROFILE = 0.1


class Checkpoints:
    """The checkpoints of one training run.

    folder: where they are; created if it does not exist.
    keep: how many of the newest to keep. At least two, to have one to fall back to when
      the newest is damaged.
    keep_every: checkpoints at multiples of this step are never deleted; None for none.
    """

    def __init__(self, folder: Folder, keep: int = 3, keep_every: int | None = None):
        if keep < 2:
            raise ValueError(f"keep at least 2 checkpoints to fall back to, got {keep}")
        self._store = store.Store(folder, keep=keep, keep_every=keep_every)

    def save(self, step: int, state: TrainState) -> None:
        """Starts to save; the state may be donated as soon as this returns.

        Raises:
          CheckpointError: this save could not start, or the previous save failed.
        """
        self._store.save(step, _parts(state))

    def restore(self, abstract: TrainState) -> TrainState | None:
        """Returns the newest intact checkpoint, or None if there never was one.

        A damaged checkpoint is moved to the folder `damaged` beside this one, with a
        warning, and the one before it is tried.

        Args:
          abstract: shapes, dtypes and shardings; each device reads only its own part.

        Raises:
          CheckpointMismatch: the checkpoint is intact but holds other arrays.
          CheckpointError: there are checkpoints and none of them is intact.
        """
        found = self._store.restore_newest(_parts(abstract))
        if found is None:
            return None
        step, parts = found
        logging.info("resuming from step %d of %s", step, self._store.folder)
        progress = parts.pop("progress")
        averages = {name: parts[_average(name)] for name in abstract.ema}
        return TrainState(params=parts["params"], ema=averages, **progress)

    def steps(self) -> list[int]:
        """Returns the steps that have a checkpoint, in ascending order."""
        return self._store.steps()

    def wait(self) -> None:
        """Waits until everything is written.

        Raises:
          CheckpointError: a save failed.
        """
        self._store.wait()

    def close(self) -> None:
        """Waits until everything is written, then ends the writer threads."""
        self._store.close()


class BestCheckpoint:
    """The checkpoint with the best value of a metric so far.

    folder: where it is; created if it does not exist.
    metric: its name, with everything that must be equal for values to be comparable.
    lower: whether a lower value is better.
    """

    def __init__(self, folder: Folder, metric: str, lower: bool):
        self._store = store.Store(folder, keep=1)
        self._metric, self._lower = metric, lower
        self._best: float | None = None
        for step in self._store.steps():
            with contextlib.suppress(store.DamagedCheckpoint):  # to be replaced
                note = self._store.read_note(step)
                if note.get("metric") == metric:  # values of others do not compare
                    self._best = note["value"]

    @staticmethod
    def delete_after(folder: Folder, step: int) -> None:
        """Deletes the best checkpoint if its step will be computed again."""
        with contextlib.closing(store.Store(folder, keep=1)) as saved:
            for later in [s for s in saved.steps() if s > step]:
                saved.delete(later)

    def save_if_better(self, step: int, state: TrainState, value: float) -> bool:
        """Saves the state if the metric is the best so far; returns whether it is.

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
        """Waits until everything is written, then ends the writer threads."""
        self._store.close()


class Snapshots:
    """Power-function averages that are never deleted.

    `reconstruct` combines them into an average of any length after training.

    folder: where they are; created if it does not exist.
    averages: the tracked averages; those with a power-function profile are saved.
    """

    def __init__(self, folder: Folder, averages: Mapping[str, ema.Average]):
        self._sigma_rels = {
            name: average.sigma_rel
            for name, average in averages.items()
            if isinstance(average, ema.PowerFunction)
        }
        self._store = store.Store(folder, keep=None)

    def save(self, step: int, state: TrainState) -> None:
        """Starts to save the averages; raises as `Checkpoints.save` does."""
        parts = {_average(name): state.ema[name] for name in self._sigma_rels}
        note = {"updates": int(state.updates), "sigma_rels": self._sigma_rels}
        self._store.save(step, parts, note)

    def close(self) -> None:
        """Waits until everything is written, then ends the writer threads."""
        self._store.close()


def reconstruct(
    folder: Folder, sigma_rel: float, abstract: Params, step: int | None = None
) -> Params:
    """Returns the average of the given length from stored snapshots, on the host.

    Warns if their combinations do not come near that average.

    Args:
      folder: that of `Snapshots`.
      sigma_rel: relative length of the average, see `ema.PowerFunction`.
      abstract: shapes and dtypes of the parameters.
      step: where the average ends; by default, at the newest snapshot.

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
    notes = {s: snapshots.read_note(s) for s in steps}
    stored = [(s, name) for s in steps for name in sorted(notes[s]["sigma_rels"])]
    profiles = (
        [notes[s]["updates"] for s, _ in stored],
        [notes[s]["sigma_rels"][name] for s, name in stored],
    )
    target = notes[steps[-1]]["updates"], sigma_rel
    weights = ema.reconstruction_weights(*profiles, *target)
    distance = ema.profile_distance(*profiles, weights, *target)
    if distance > FAR_PROFILE:
        logging.warning(
            "the average of length %g is %.0f %% away from the nearest combination of "
            "%d snapshots with lengths %s in %s; shorter ema.snapshot_every_steps, or "
            "lengths in ema.power on both sides of it, bring it nearer",
            sigma_rel,
            100 * distance,
            len(steps),
            sorted(set(profiles[1])),
            folder,
        )

    # Each process reads and sums all of it in its own memory.
    host = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    on_host = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=host),
        abstract,
    )

    def read() -> Iterator[Params]:  # one at a time: all of them would fill the memory
        for s, name in stored:
            yield snapshots.read(s, {_average(name): on_host})[_average(name)]

    with contextlib.closing(snapshots):
        return ema.combine(read(), weights)


def restore_params(
    folder: Folder,
    abstract: Params,
    average: str | None = "main",
    step: int | None = None,
) -> tuple[int, Params]:
    """Returns (step, parameters) for sampling; reads no other part, writes nothing.

    Args:
      folder: that of `Checkpoints`.
      abstract: shapes, dtypes and shardings of the parameters.
      average: the name of a tracked average, or None for the parameters themselves.
      step: of the checkpoint; by default the newest intact one.

    Raises:
      CheckpointError: there is no such checkpoint, or it does not fit.
    """
    part = "params" if average is None else _average(average)
    with contextlib.closing(store.Store(folder, read_only=True)) as saved:
        if step is not None:
            return step, saved.read(step, {part: abstract})[part]
        found = saved.restore_newest({part: abstract})
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
