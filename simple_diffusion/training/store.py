"""Numbered folders of named trees on disk, on top of orbax; verified when read.

The folder of step n has one part per tree and a note in JSON that lists every array
with shape, dtype and fingerprint. Orbax writes to a temporary folder and renames it. A
process killed during a save therefore leaves the older steps and temporary files, but
never an incomplete step. Later damage (a truncation, a flipped bit) is detected when
the files are read, because the fingerprints are compared.

Several processes write a step together, each its own part, to a shared folder. Each
process reads independently, so that one with an error does not leave the others
waiting. Then all compare whether every process could read.
"""

import contextlib
import hashlib
import json
import secrets
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jaxtyping import Array, Shaped, UInt32

from simple_diffusion.training import cluster, sharding

# Parts of the error messages of a full disk.
_DISK_FULL_ERRORS = ("No space left", "Disk quota exceeded", "RESOURCE_EXHAUSTED")

Trees = dict[str, Any]  # name of a part -> tree of arrays or of ShapeDtypeStruct
Folder = str | epath.PathLike


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read; the message proposes a remedy."""


class CheckpointMismatch(CheckpointError):
    """An intact checkpoint of another model: an older one would not help."""


class MissingTree(CheckpointMismatch):
    """An intact checkpoint that lacks a complete tree, such as an average."""


class DamagedCheckpoint(CheckpointError):
    """A checkpoint whose files are incomplete or modified."""


class Store:
    """Numbered folders of named trees, on top of orbax.

    folder: where they are; created if it does not exist, unless `read_only`.
    keep: how many of the newest to keep; None for all.
    keep_every: multiples of this step are never deleted; None for none.
    read_only: never writes, moves or deletes files.
    """

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
        # Orbax wants an absolute path; "gs://..." is one already.
        path = self.folder if "://" in str(folder) else self.folder.resolve()
        process = jax.process_index()
        self._reader = ocp.CheckpointManager(
            path,
            options=ocp.CheckpointManagerOptions(
                create=False,
                multiprocessing_options=ocp.options.MultiprocessingOptions(
                    primary_host=process,
                    active_processes={process},
                    barrier_sync_key_prefix=f"reader_{process}",
                ),
            ),
        )
        if read_only:
            self._manager = self._reader
            return
        self._manager = ocp.CheckpointManager(
            path,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                keep_period=keep_every,
                create=True,
                cleanup_tmp_directories=True,
                # Folders are created synchronously, arrays written asynchronously. If
                # a full disk prevents a folder, threads would wait for it for five
                # minutes.
                async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
            ),
        )

    def steps(self) -> list[int]:
        """Returns the saved steps in ascending order."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, trees: Trees, note: dict | None = None) -> None:
        """Starts to save; raises CheckpointError. Never overwrites a saved step."""
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
        with self._wrap_errors(f"save step {step}"):
            self._manager.save(step, args=ocp.args.Composite(**content))

    def read_note(self, step: int) -> dict:
        """Returns the note of a step; raises DamagedCheckpoint."""
        args = ocp.args.Composite(note=ocp.args.JsonRestore())
        note = self._read_together(
            step, lambda: dict(self._reader.restore(step, args=args)["note"])
        )
        checksum = note.pop("checksum", None)
        # Without it, a flipped bit in a shape would look like another model.
        if checksum != _checksum(note):
            raise DamagedCheckpoint(
                f"step {step} in {self.folder}: its note was changed"
            )
        return note

    def read(self, step: int, abstract: Trees) -> Trees:
        """Reads the trees of a step.

        Args:
          step: number of the step.
          abstract: shapes, dtypes and shardings of the trees to read.

        Raises:
          DamagedCheckpoint: the files are incomplete or modified.
          MissingTree: the checkpoint lacks one of the trees.
          CheckpointMismatch: it holds other arrays.
          CheckpointError: there is no such step.
        """
        if step not in self.steps():
            raise CheckpointError(
                f"no checkpoint of step {step} in {self.folder}; have {self.steps()}"
            )
        arrays = self.read_note(step)["arrays"]
        flat = {part: _flatten(tree) for part, tree in abstract.items()}
        if differences := list(_differences(flat, arrays)):
            kind = (
                MissingTree if abstract.keys() - arrays.keys() else CheckpointMismatch
            )
            raise kind(
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
        found = self._read_together(
            step, lambda: self._reader.restore(step, args=ocp.args.Composite(**args))
        )
        trees = {}
        for part, tree in abstract.items():
            leaves = _flatten(found[part])
            changed = [
                name
                for name, (_, _, fingerprint) in _describe(leaves).items()
                if fingerprint != arrays[part][name][2]
            ]
            if changed:
                raise DamagedCheckpoint(
                    f"step {step} in {self.folder}: the contents of "
                    f"{', '.join(_shorten(changed))} are not what was saved"
                )
            ordered = [leaves[name] for name in flat[part]]
            trees[part] = jax.tree.unflatten(jax.tree.structure(tree), ordered)
        return trees

    def restore_newest(self, abstract: Trees) -> tuple[int, Trees] | None:
        """Returns step and trees of the newest intact checkpoint, or None."""
        steps = cluster.broadcast_from_first(self.steps())
        damaged = []
        for step in reversed(steps):
            try:
                found = self.read(step, abstract)
            except DamagedCheckpoint as damage:
                logging.warning("damaged checkpoint, trying the one before: %s", damage)
                damaged.append(step)
                continue
            # Only now: if none is intact, the folder must not look like a new run.
            for bad in damaged:
                self._move_damaged(bad)
            return step, found
        if steps:
            raise CheckpointError(
                f"all checkpoints in {self.folder} are damaged (steps {steps}); "
                "restore them from a copy, or choose another workdir to start again"
            )
        return None

    def delete(self, step: int) -> None:
        """Deletes a step, a collective operation; raises CheckpointError."""
        with self._wrap_errors(f"remove step {step}"):
            self._manager.delete(step)

    def wait(self) -> None:
        """Waits until everything is written; raises CheckpointError."""
        with self._wrap_errors("finish a save"):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then ends the writer threads; raises CheckpointError."""
        try:
            with self._wrap_errors("finish a save"):
                self._manager.close()
        finally:
            self._reader.close()

    def _move_damaged(self, step: int) -> None:
        # Moved, not deleted, because it may be the only copy of something. It cannot
        # stay, because its step will be saved again.
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
        cluster.all_true(True)  # waits until it is moved
        self._manager.reload()
        self._reader.reload()

    def _read_together(self, step: int, read: Callable[[], Any]) -> Any:
        """Calls `read` in all processes; if it fails in one, all raise.

        Catches every exception, because a damaged file can make its reader raise any.

        Raises:
          DamagedCheckpoint: some process cannot read it.
        """
        found, problem = None, None
        try:
            found = read()
        except Exception as error:
            problem = error
        if not cluster.all_true(problem is None):
            reason = _brief(problem) if problem else "another process cannot read it"
            raise DamagedCheckpoint(
                f"step {step} in {self.folder}: {reason}"
            ) from problem
        return found

    @contextlib.contextmanager
    def _wrap_errors(self, action: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            is_full = any(word in str(error) for word in _DISK_FULL_ERRORS)
            advice = " The disk is full: make room and start again." if is_full else ""
            raise CheckpointError(
                f"could not {action} in {self.folder}: {_brief(error)}.{advice} "
                f"Checkpoints there: {self.steps()}"
            ) from error


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


def digest(tree: Any) -> str:
    """Returns 12 hexadecimal digits that identify the arrays of a tree on any mesh."""
    prints = jax.device_get(jax.tree.map(fingerprint, tree))
    text = json.dumps({k: int(v) for k, v in _flatten(prints).items()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _differences(
    abstract: Mapping[str, Mapping[str, Any]], stored: Mapping[str, Mapping[str, list]]
) -> Iterator[str]:
    for part, leaves in abstract.items():
        if part not in stored:
            names = ", ".join(sorted(stored))
            yield f"{part}: not in the checkpoint, which has {names}"
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
    """Raises unless all processes can write to the folder and see the same one."""
    # A new number for each start: a killed process may have left its probe file.
    (number,) = cluster.broadcast_from_first([secrets.randbelow(2**31)])
    probe = folder / f".probe_{number}_{jax.process_index()}"
    problem = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
    except OSError as error:
        problem = error
    if not cluster.all_true(problem is None):
        reason = _brief(problem) if problem else "another process cannot"
        raise CheckpointError(
            f"cannot write to {folder}: {reason}. Choose another --workdir or "
            "change its permissions"
        ) from problem
    is_shared = (folder / f".probe_{number}_0").exists()
    is_shared_by_all = cluster.all_true(is_shared)
    probe.unlink()
    if not is_shared_by_all:
        here = f"process {jax.process_index()}"
        process = "another process" if is_shared else here
        raise CheckpointError(
            f"{process} does not see what process 0 wrote to {folder}: with several "
            "processes, --workdir must be on a file system that all hosts share, or in "
            "a bucket (gs://...)"
        )


def _shorten(lines: Iterable[str], most: int = 12) -> list[str]:
    lines = list(lines)
    more = [f"and {len(lines) - most} more"] if len(lines) > most else []
    return lines[:most] + more


def _brief(error: BaseException) -> str:
    text = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {text[:200]}"
