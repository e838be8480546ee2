"""Inputs of any sizes, restored in batches of one size each."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from simple_diffusion.build import network, restoration
from simple_diffusion.build.options import Config
from simple_diffusion.core import images
from simple_diffusion.core.types import Params
from simple_diffusion.modes import inputs, pictures
from simple_diffusion.modes import workdir as files
from simple_diffusion.modes.restored import Restored

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
    """Restores inputs with one model.

    config: the whole config.
    plan: what is restored.
    trained: the model.
    mesh: the devices.
    batch_size: images of one size at a time.
    """

    def __init__(
        self,
        config: Config,
        plan: restoration.Plan,
        trained: Trained,
        mesh: Mesh,
        batch_size: int,
    ):
        self.seconds = 0.0  # spent on restoring
        self.network_calls = 0  # of each image
        self._config, self._plan, self._trained = config, plan, trained
        self._mesh, self._batch_size = mesh, batch_size
        # Raises ValueError for (height, width, channels) that cannot be judged later.
        self.check: Callable[[int, int, int], None] = lambda *_: None
        self._groups: dict[tuple[int, int], _Group] = {}

    def add(self, item: inputs.Input, number: int) -> None:
        """Takes up an input.

        Raises:
          ValueError: it cannot be used.
          OSError: it cannot be read.
        """
        plan = self._plan
        loaded = inputs.load(plan, item, self._trained.built.size[2])
        group = self._group(loaded.size)
        y = group.measured(item.name, loaded, number)
        label = plan.classes[number % len(plan.classes)]
        task = _Task(item.name, label, loaded, y)
        first = number * plan.samples
        group.waiting += [(task, first + k) for k in range(plan.samples)]

    def ready(self) -> Iterator[Restored]:
        """Yields the inputs that full batches complete."""
        for group in self._groups.values():
            while len(group.waiting) >= group.restore.batch_size:
                yield from self._run(group)

    def rest(self) -> Iterator[Restored]:
        """Yields what was still waiting for a batch to be full."""
        for group in self._groups.values():
            while group.waiting:
                yield from self._run(group)

    def _group(self, size: tuple[int, int]) -> "_Group":
        if size not in self._groups:
            self.check(*size, self._trained.built.size[2])
            how = restoration.restoration(
                self._config,
                self._trained.built,
                size,
                self._trained.weak,
                mesh=self._mesh,
                tick=_Progress(),
            )
            self._groups[size] = _Group(how, self._mesh, self._batch_size)
            self.network_calls = how.network_calls
            files.say(
                f"{size[0]}x{size[1]} pixels: {how.network_calls} network calls each"
                + (f", {how.windows} windows an image" if how.windows else "")
            )
        return self._groups[size]

    def _run(self, group: "_Group") -> Iterator[Restored]:
        """Restores the first batch of those that wait; yields completed inputs."""
        most = group.restore.batch_size
        jobs, group.waiting = group.waiting[:most], group.waiting[most:]
        # What fills up the last batch is there anyway: nothing is compiled twice.
        filled = [jobs[k % len(jobs)] for k in range(most)]
        index = np.array([index for _, index in filled], np.int32)
        label = np.array([task.label for task, _ in filled], np.int32)
        y = np.stack([task.measurement for task, _ in filled])
        known = np.stack([task.loaded.known_mask for task, _ in filled])
        start = time.perf_counter()
        params = self._trained.params, self._trained.weak_params
        made = group.restore.call(*params, index, label, y, known)
        self.seconds += time.perf_counter() - start
        for (task, _), image in zip(jobs, made, strict=False):
            task.made.append(image)
            if len(task.made) == self._plan.samples:
                yield group.finished(task)


class _Group:
    """The inputs of one size, and the programs for them."""

    def __init__(self, how: restoration.Restoration, mesh: Mesh, batch_size: int):
        self.waiting: list[tuple[_Task, int]] = []
        self._how = how
        self.restore = pictures.placed(how.restore, mesh, batch_size, how.windows)
        self._measure = jax.jit(how.measure)
        self._guess, self._residual = jax.jit(how.guess), jax.jit(how.residual)

    def measured(self, name: str, loaded: inputs.Loaded, number: int) -> np.ndarray:
        """Returns the measurement of an input, made here if it came undegraded.

        Raises:
          ValueError: it came degraded, but otherwise than the settings say.
        """
        y, how = loaded.measurement, self._how
        if y is None:
            assert loaded.whole is not None
            x = np.asarray(images.to_unit_range(loaded.whole))[None]
            index = np.array([number], np.int32)
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
        return Restored(
            name=task.name,
            label=task.label,
            restored=np.asarray(images.to_uint8(x)),
            measurement=task.measurement,
            guess=np.asarray(guess),
            whole=task.loaded.whole,
            known_mask=task.loaded.known_mask,
            residuals=np.asarray(self._residual(x, y, known)),
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
