"""Inputs of any sizes, restored in batches of one size each."""

import dataclasses
import time
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from simple_diffusion.build import network
from simple_diffusion.build.restoration import restoration
from simple_diffusion.core import files, images
from simple_diffusion.core.options import Config
from simple_diffusion.core.types import Params
from simple_diffusion.pipelines import compiled
from simple_diffusion.pipelines.restoration import inputs
from simple_diffusion.pipelines.restoration.outputs import Restored

# Seconds after which progress within a batch is shown.
PATIENCE = 10.0


@dataclasses.dataclass(frozen=True)
class _Task:
    """One input, and the restorations of it that are made so far."""

    name: str
    label: int
    loaded: inputs.Loaded
    measurement: np.ndarray
    made: list[np.ndarray] = dataclasses.field(default_factory=list)


class Trained(NamedTuple):
    """A model with its parameters, and the one to guide by, if there is one."""

    built: network.Model
    params: Params
    weak: network.Model | None = None
    weak_params: Params | None = None


class Restorer:
    """Restores inputs with one model, in batches of one size each.

    What is random about a restoration follows from the name of its input and its own
    number, and not from the other inputs.

    seconds: spent on restoring so far, compilation included.
    made: restorations so far.
    network_calls: of each restoration; 0 before the first input.

    Args:
      config: the whole config.
      plan: what is restored.
      trained: the model.
      mesh: the devices.
      batch_size: images at a time.
    """

    def __init__(
        self,
        config: Config,
        plan: restoration.Plan,
        trained: Trained,
        mesh: Mesh,
        batch_size: int,
    ):
        self.seconds, self.made, self.network_calls = 0.0, 0, 0
        self._config, self._plan, self._trained = config, plan, trained
        self._mesh, self._batch_size = mesh, batch_size
        self._groups: dict[tuple[int, int], _Group] = {}
        self._impossible: dict[tuple[int, int], str] = {}

    def add(self, item: inputs.Input, number: int) -> None:
        """Takes up an input, the `number`-th.

        Raises:
          ValueError: it cannot be used.
          OSError: it cannot be read.
        """
        plan = self._plan
        loaded = inputs.load(plan, item, self._trained.built.size[2])
        group = self._group(loaded.size)
        y = group.measured(item.name, loaded)
        label = plan.classes[number % len(plan.classes)]
        task = _Task(item.name, label, loaded, y)
        group.waiting += [(task, k) for k in range(plan.samples)]

    def ready(self) -> Iterator[Restored]:
        """Yields the inputs that full batches complete."""
        for group in self._groups.values():
            while len(group.waiting) >= self._full(group):
                yield from self._run(group, self._batch_size)

    def _full(self, group: "_Group") -> int:
        # Where devices share the windows of an image there is one image at a time.
        return 1 if group.is_windowed else self._batch_size

    def rest(self) -> Iterator[Restored]:
        """Yields what was still waiting for a batch to be full."""
        for group in self._groups.values():
            while group.waiting:
                # Of a size that no batch was full of, the batch is as small as can be.
                yield from self._run(group, min(len(group.waiting), self._batch_size))

    def _group(self, size: tuple[int, int]) -> "_Group":
        if size in self._impossible:
            raise ValueError(self._impossible[size])
        if size not in self._groups:
            try:
                self._groups[size] = self._new_group(size)
            except ValueError as error:
                self._impossible[size] = str(error)
                raise
        return self._groups[size]

    def _new_group(self, size: tuple[int, int]) -> "_Group":
        built, weak = self._trained.built, self._trained.weak
        mesh, tick = self._mesh, _Progress()
        how = restoration.restoration(
            self._config, built, size, weak, mesh=mesh, tick=tick
        )
        self.network_calls = how.network_calls
        files.say(
            f"{size[0]}x{size[1]} pixels: {how.network_calls} network calls each"
            + (f", {how.windows} windows an image" if how.windows else "")
        )
        if size != built.size[:2] and not (built.knows_place or how.windows):
            files.say(
                f"note: this model was trained at {built.size[0]}x{built.size[1]} "
                "without data.patches and knows no other size well; restore.size="
                f"{built.size[0]}x{built.size[1]} brings inputs to it, "
                f"sample.window={built.size[0]} restores larger ones in windows"
            )
        return _Group(how, self._mesh)

    def _run(self, group: "_Group", batch_size: int) -> Iterator[Restored]:
        """Restores the first batch of those that wait; yields completed inputs."""
        restore = group.compiled(batch_size)
        most = restore.batch_size
        jobs, group.waiting = group.waiting[:most], group.waiting[most:]
        # What fills up the last batch is there anyway: nothing is compiled twice.
        filled = [jobs[k % len(jobs)] for k in range(most)]
        index = np.array([_index(f"{task.name}/{k}") for task, k in filled], np.int32)
        label = np.array([task.label for task, _ in filled], np.int32)
        y = np.stack([task.measurement for task, _ in filled])
        known = np.stack([task.loaded.known_mask for task, _ in filled])
        params = self._trained.params, self._trained.weak_params
        start = time.perf_counter()
        every = restore.call(*params, index, label, y, known)
        self.seconds += time.perf_counter() - start
        self.made += len(jobs)
        for (task, _), image in zip(jobs, every, strict=False):
            task.made.append(image)
            if len(task.made) == self._plan.samples:
                yield group.finished(task)


def _index(name: str) -> np.int32:
    """Returns the number by which something random is drawn."""
    return np.int32(zlib.crc32(name.encode()) & 0x7FFFFFFF)


class _Group:
    """The inputs of one size, and the programs for them."""

    def __init__(self, how: restoration.Restoration, mesh: Mesh):
        self.waiting: list[tuple[_Task, int]] = []
        self.is_windowed = how.windows is not None
        self._how, self._mesh = how, mesh
        self._restore: compiled.Placed | None = None
        self._measure = jax.jit(how.measure)
        self._guess, self._residual = jax.jit(how.guess), jax.jit(how.residual)

    def compiled(self, batch_size: int) -> compiled.Placed:
        """Returns the program that restores; the first call settles the batch size."""
        if self._restore is None:
            how = self._how
            self._restore = compiled.placed(
                how.restore, self._mesh, batch_size, how.windows
            )
        return self._restore

    def measured(self, name: str, loaded: inputs.Loaded) -> np.ndarray:
        """Returns the measurement of an input, made here if it came undegraded.

        Raises:
          ValueError: it came degraded, but otherwise than the settings say.
        """
        y, how = loaded.measurement, self._how
        if y is None:
            assert loaded.whole is not None
            x = np.asarray(images.to_unit_range(loaded.whole))[None]
            index = np.array([_index(name)], np.int32)
            return np.asarray(self._measure(x, loaded.known_mask[None], index)[0])
        if y.shape != how.measured:
            raise ValueError(
                f"{name}: the measurement is {list(y.shape)}; of an image of "
                f"{how.size[0]}x{how.size[1]} pixels it is {list(how.measured)} "
                "(restore.size, restore.ratio)"
            )
        return y

    def finished(self, task: _Task) -> Restored:
        """Returns an input with all that is said about it."""
        x = np.stack(task.made)
        y, known = task.measurement[None], task.loaded.known_mask[None]
        guess = images.to_uint8(self._guess(y, known)[0])
        stored = np.asarray(images.to_uint8(x))
        again = np.asarray(images.to_unit_range(stored))
        return Restored(
            name=task.name,
            label=task.label,
            restored=stored,
            measurement=task.measurement,
            guess=np.asarray(guess),
            whole=task.loaded.whole,
            known_mask=task.loaded.known_mask,
            residuals=np.asarray(self._residual(x, y, known)),
            residuals_stored=np.asarray(self._residual(again, y, known)),
        )


class _Progress:
    """Shows how far a batch is, if it takes long."""

    def __init__(self):
        self._shown = time.perf_counter()

    def __call__(self, done: int, total: int) -> None:
        now = time.perf_counter()
        if done == 1:
            self._shown = now
        elif now - self._shown > PATIENCE:
            self._shown = now
            files.say(f"  step {done} of {total} of this batch")
