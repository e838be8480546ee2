"""Checkpoints that survive: written behind the step's back, verified when read.

A checkpoint of step n is a folder `n` with one part per tree (`params`, `ema_<name>`,
`progress`) and a note in JSON that lists every array with shape, dtype and fingerprint.
Orbax writes to a temporary folder and renames it, so a process killed in mid-save
leaves the older checkpoints and some rubbish, never half a checkpoint. What happens to
files afterwards (a truncation, a flipped bit) is caught when they are read: the
fingerprints are compared, and where the newest checkpoint is damaged the one before it
is used.
"""

import contextlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jaxtyping import Array, Shaped, UInt32

from simple_diffusion.core.types import Params
from simple_diffusion.training import ema, sharding
from simple_diffusion.training.state import TrainState

Trees = dict[str, Any]  # name of a part -> tree of arrays or of ShapeDtypeStruct
Folder = str | epath.PathLike


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read; the message says what to do."""


class Mismatch(CheckpointError):
    """A sound checkpoint of another model: going back to an older one cannot help."""


class Damaged(CheckpointError):
    """A checkpoint whose files are incomplete or were changed."""


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
        self._store = _Store(folder, keep=keep, keep_every=keep_every)

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
        self._store = _Store(folder, keep=None)

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
      abstract: shapes, dtypes and shardings of the parameters.
      step: where the average shall end; by default, at the newest snapshot.

    Raises:
      CheckpointError: there is no snapshot up to that step, or one does not fit.
    """
    store = _Store(folder, read_only=True)
    steps = [s for s in store.steps() if step is None or s <= step]
    if not steps:
        raise CheckpointError(
            f"no snapshot of the averages up to step {step} in {folder}; snapshots are "
            f"taken where a power-function average is tracked in training"
        )
    notes = {s: store.note(s) for s in steps}
    stored = [(s, name) for s in steps for name in sorted(notes[s]["sigma_rels"])]
    weights = ema.reconstruction_weights(
        [notes[s]["updates"] for s, _ in stored],
        [notes[s]["sigma_rels"][name] for s, name in stored],
        notes[steps[-1]]["updates"],
        sigma_rel,
    )

    def read() -> Iterator[Params]:  # one at a time: together they fill the memory
        for s, name in stored:
            yield store.read(s, {_average(name): abstract})[_average(name)]

    with contextlib.closing(store):
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
    with contextlib.closing(_Store(folder, read_only=True)) as store:
        if step is not None:
            return step, store.read(step, {part: abstract})[part]
        found = store.newest({part: abstract})
    if found is None:
        raise CheckpointError(f"there is no checkpoint in {folder}; train first")
    return found[0], found[1][part]


class _Store:
    """Numbered folders of named trees, on top of orbax."""

    def __init__(
        self,
        folder: Folder,
        *,
        keep: int | None = None,
        keep_every: int | None = None,
        read_only: bool = False,
    ):
        self.folder = epath.Path(folder)
        self._read_only = read_only
        if not read_only:
            _make_writable(self.folder)
        elif not self.folder.exists():
            raise CheckpointError(f"there is no folder {self.folder}")
        self._manager = ocp.CheckpointManager(
            # Orbax wants an absolute path; "gs://..." is one already.
            self.folder if "://" in str(folder) else self.folder.resolve(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                keep_period=keep_every,
                create=not read_only,
                cleanup_tmp_directories=not read_only,
                # Folders at once, arrays behind the step's back: where no folder can be
                # made (a full disk), threads that wait for it hang for five minutes.
                async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
            ),
        )

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def save(self, step: int, trees: Trees, note: dict | None = None) -> None:
        if step in self.steps():
            return
        flat = {part: _flatten(tree) for part, tree in trees.items()}
        arrays = {part: _describe(leaves) for part, leaves in flat.items()}
        content: dict[str, Any] = {
            part: ocp.args.StandardSave(flax.traverse_util.unflatten_dict(leaves, "/"))
            for part, leaves in flat.items()
        }
        note = {**(note or {}), "arrays": arrays}
        content["note"] = ocp.args.JsonSave({**note, "checksum": _checksum(note)})
        with self._explained(f"save step {step}"):
            self._manager.save(step, args=ocp.args.Composite(**content))

    def note(self, step: int) -> dict:
        """Returns the note; raises Damaged."""
        args = ocp.args.Composite(note=ocp.args.JsonRestore())
        try:
            note = dict(self._manager.restore(step, args=args)["note"])
            checksum = note.pop("checksum")
        except Exception as error:  # whatever a broken file makes its reader raise
            raise Damaged(f"step {step} in {self.folder}: {_brief(error)}") from error
        # Or a flipped bit in a shape would look like the checkpoint of another model.
        if checksum != _checksum(note):
            raise Damaged(f"step {step} in {self.folder}: its note was changed")
        return note

    def read(self, step: int, wanted: Trees) -> Trees:
        """Returns trees like the wanted ones; raises Damaged or Mismatch."""
        if step not in self.steps():
            raise CheckpointError(
                f"no checkpoint of step {step} in {self.folder}; have {self.steps()}"
            )
        arrays = self.note(step)["arrays"]
        flat = {part: _flatten(tree) for part, tree in wanted.items()}
        if differences := list(_differences(flat, arrays)):
            raise Mismatch(
                f"the checkpoint of step {step} in {self.folder} does not fit the "
                "configured model:\n  " + "\n  ".join(_shorten(differences)) + "\n"
                "Use the configuration it was trained with, or another workdir."
            )
        args = {
            part: ocp.args.StandardRestore(
                flax.traverse_util.unflatten_dict(leaves, "/")
            )
            for part, leaves in flat.items()
        }
        try:
            found = self._manager.restore(step, args=ocp.args.Composite(**args))
        except Exception as error:  # as above
            raise Damaged(f"step {step} in {self.folder}: {_brief(error)}") from error
        trees = {}
        for part, tree in wanted.items():
            leaves = _flatten(found[part])
            changed = [
                name
                for name, (_, _, fingerprint) in _describe(leaves).items()
                if fingerprint != arrays[part][name][2]
            ]
            if changed:
                raise Damaged(
                    f"step {step} in {self.folder}: the contents of "
                    f"{', '.join(_shorten(changed))} are not what was saved"
                )
            ordered = [leaves[name] for name in flat[part]]
            trees[part] = jax.tree.unflatten(jax.tree.structure(tree), ordered)
        return trees

    def newest(self, wanted: Trees) -> tuple[int, Trees] | None:
        """Returns step and trees of the newest sound checkpoint, or None."""
        steps = self.steps()
        for step in reversed(steps):
            try:
                return step, self.read(step, wanted)
            except Damaged as damage:
                logging.warning("damaged checkpoint, trying the one before: %s", damage)
                self._set_aside(step)
        if steps:
            raise CheckpointError(
                f"all checkpoints in {self.folder} are damaged (steps {steps}); "
                "restore them from a copy, or choose another workdir to begin anew"
            )
        return None

    def wait(self) -> None:
        with self._explained("finish a save"):
            self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()

    def _set_aside(self, step: int) -> None:
        # Moved, not deleted: it may be the only copy of something. But out of the way,
        # because its step will be saved again.
        if self._read_only:
            return
        if jax.process_index() == 0:
            damaged = self.folder.parent / "damaged"
            damaged.mkdir(parents=True, exist_ok=True)
            taken = {path.name for path in damaged.iterdir()}
            name = next(
                name
                for k in range(len(taken) + 1)
                if (name := f"{step}" if k == 0 else f"{step}_{k}") not in taken
            )
            (self.folder / f"{step}").rename(damaged / name)
        self._manager.reload()

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise CheckpointError(
                f"could not {what} in {self.folder}: {_brief(error)}. "
                f"Checkpoints there: {self.steps()}"
            ) from error


def _parts(state: TrainState) -> Trees:
    averages = {_average(name): tree for name, tree in state.ema.items()}
    progress = {
        name: getattr(state, name)
        for name in ("step", "opt_state", "skipped", "skipped_in_row")
    }
    return {"params": state.params, **averages, "progress": progress}


def _average(name: str) -> str:
    return f"ema_{name}"


def _checksum(note: dict) -> int:
    return zlib.crc32(json.dumps(note, sort_keys=True).encode())


def _flatten(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {sharding.path_name(path): leaf for path, leaf in leaves}


def _describe(leaves: Mapping[str, Array]) -> dict[str, list]:
    """Returns [shape, dtype, fingerprint] by name."""
    prints = jax.device_get({name: fingerprint(a) for name, a in leaves.items()})
    return {
        name: [list(a.shape), str(a.dtype), int(prints[name])]
        for name, a in leaves.items()
    }


@jax.jit
def fingerprint(a: Shaped[Array, "*s"]) -> UInt32[Array, ""]:
    """Returns the sum of the bits of an array, read as integers, modulo 2^32.

    Any single changed element changes it, and it is the same on every mesh: integer
    addition does not care about order.
    """
    unsigned = jnp.dtype(f"uint{8 * a.dtype.itemsize}")
    bits = jax.lax.bitcast_convert_type(a, unsigned)
    return jnp.sum(bits.astype(jnp.uint32), dtype=jnp.uint32)


def _differences(
    wanted: Mapping[str, Mapping[str, Any]], stored: Mapping[str, Mapping[str, list]]
) -> Iterator[str]:
    for part, leaves in wanted.items():
        if part not in stored:
            have = ", ".join(sorted(stored))
            yield f"{part}: not in the checkpoint, which has {have}"
            continue
        for name in sorted(leaves.keys() | stored[part].keys()):
            have, want = stored[part].get(name), leaves.get(name)
            if have is None:
                yield f"{part}/{name}: not in the checkpoint"
            elif want is None:
                yield f"{part}/{name}: in the checkpoint only"
            elif (have[0], have[1]) != ([*want.shape], str(want.dtype)):
                yield (
                    f"{part}/{name}: {have[1]}{have[0]} in the checkpoint, "
                    f"{want.dtype}{[*want.shape]} in the model"
                )


def _make_writable(folder: epath.Path) -> None:
    probe = folder / f".probe_{jax.process_index()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise CheckpointError(
            f"cannot write to {folder}: {_brief(error)}. Choose another --workdir or "
            "change its permissions"
        ) from error


def _shorten(lines: Iterable[str], most: int = 12) -> list[str]:
    lines = list(lines)
    more = [f"and {len(lines) - most} more"] if len(lines) > most else []
    return lines[:most] + more


def _brief(error: BaseException) -> str:
    text = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {text[:200]}"
