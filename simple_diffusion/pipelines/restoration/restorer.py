"""Inputs of any sizes, restored in batches of one size each."""

import dataclasses
import time
import zlib
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from simple_diffusion.build.restoration import restoration
from simple_diffusion.core import images
from simple_diffusion.core.options import Config
from simple_diffusion.core.types import Progress
from simple_diffusion.pipelines import keywords, programs
from simple_diffusion.pipelines.restoration import inputs
from simple_diffusion.pipelines.restoration.outputs import Restored
from simple_diffusion.pipelines.trained import Trained

# Keys of `restore` and `sample` that are arguments of a program, or no business of it.
_NOT_COMPILED = (
    *("restore.input", "restore.hole_mask", "restore.output", "restore.samples"),
    *("restore.classes", "restore.degrade", "restore.size", "restore.lpips_weights"),
    *("sample.seed", "sample.count", "sample.classes", "sample.batch_size"),
    *("sample.weights", "sample.checkpoint_step", "sample.best_checkpoint"),
)


@dataclasses.dataclass(frozen=True)
class _Task:
    """One input, and the restorations of it that are complete so far."""

    name: str
    label: int
    loaded: inputs.Loaded
    measurement: np.ndarray
    images: list[np.ndarray] = dataclasses.field(default_factory=list)


class Restorer:
    """Restores inputs with one model, in batches of one size each.

    What is random about a restoration follows from the name of its input and its own
    number, and not from the other inputs.

    seconds: spent on restoring so far, compilation included.
    count: restorations so far.
    network_calls: of each restoration; 0 before the first input.
    """

    def __init__(
        self,
        trained: Trained,
        config: Config,
        plan: restoration.Plan,
        *,
        notify: Callable[[str], None],
        progress: Progress | None = None,
        cache: dict | None = None,
    ):
        """Prepares restoring; nothing is compiled yet.

        Args:
          trained: the model.
          config: the whole config.
          plan: what is restored.
          notify: is called with a line for the user about each size of images.
          progress: is called at every step of a batch.
          cache: programs of earlier calls, by what they depend on; those made here are
            added.
        """
        self.seconds, self.count, self.network_calls = 0.0, 0, 0
        self._trained, self._config, self._plan = trained, config, plan
        self._notify, self._progress = notify, progress
        self._batch_size = config.sample.batch_size
        self._cache = {} if cache is None else cache
        self._waiting: dict[tuple[int, int], list[tuple[_Task, int]]] = {}
        self._impossible: dict[tuple[int, int], str] = {}

    def add(self, item: inputs.Input, number: int) -> None:
        """Takes up an input, the `number`-th.

        Raises:
          ValueError: it cannot be used.
          OSError: it cannot be read.
        """
        plan = self._plan
        loaded = inputs.load(plan, item, self._trained.net.size[2])
        found = self._programs(loaded.size)
        y = found.measure_input(item.name, loaded, plan.seed)
        label = plan.classes[number % len(plan.classes)]
        task = _Task(item.name, label, loaded, y)
        waiting = self._waiting.setdefault(loaded.size, [])
        waiting += [(task, k) for k in range(plan.samples)]

    def ready(self) -> Iterator[Restored]:
        """Yields the inputs that full batches complete."""
        for size, waiting in self._waiting.items():
            # Where devices share the windows of an image there is one image at a time.
            full = 1 if self._programs(size).is_windowed else self._batch_size
            while len(waiting) >= full:
                yield from self._run(size, self._batch_size)

    def rest(self) -> Iterator[Restored]:
        """Yields what was still waiting for a batch to be full."""
        for size, waiting in self._waiting.items():
            while waiting:
                # Of a size that no batch was full of, the batch is as small as can be.
                yield from self._run(size, min(len(waiting), self._batch_size))

    def _programs(self, size: tuple[int, int]) -> "_Programs":
        if size in self._impossible:
            raise ValueError(self._impossible[size])
        key = keywords.fingerprint(self._config, ("restore", "sample"), _NOT_COMPILED)
        key = "restore", key, size, self._progress is not None
        if key not in self._cache:
            try:
                self._cache[key] = self._new_programs(size)
            except ValueError as error:
                self._impossible[size] = str(error)
                raise
        found = self._cache[key]
        self.network_calls = found.how.network_calls
        return found

    def _new_programs(self, size: tuple[int, int]) -> "_Programs":
        trained, relay = self._trained, programs.ProgressRelay()
        how = restoration.restoration(
            self._config,
            trained.net,
            size,
            trained.weak,
            mesh=trained.mesh,
            codec=trained.codec,
            progress=relay if self._progress is not None else None,
        )
        self._notify(
            f"{size[0]}x{size[1]} pixels: {how.network_calls} network calls each"
            + (f", {how.windows} windows an image" if how.windows else "")
        )
        h, w, _ = trained.net.size
        if size != (h, w) and not (trained.net.knows_place or how.windows):
            self._notify(
                f"note: this model was trained at {h}x{w} without data.patches and "
                f"knows no other size well; restore.size={h}x{w} brings inputs to it, "
                f"sample.window={h} restores larger ones in windows"
            )
        return _Programs(how, trained.mesh, relay)

    def _run(self, size: tuple[int, int], batch_size: int) -> Iterator[Restored]:
        """Restores the first batch of those that wait; yields completed inputs."""
        found, waiting = self._programs(size), self._waiting[size]
        restore = found.compile(batch_size)
        most = restore.batch_size
        jobs, waiting[:most] = waiting[:most], []
        # What fills up the last batch is there anyway: nothing is compiled twice.
        filled = [jobs[k % len(jobs)] for k in range(most)]
        index = np.array([_index(f"{task.name}/{k}") for task, k in filled], np.int32)
        seed = np.full(most, self._plan.seed, np.uint32)
        label = np.array([task.label for task, _ in filled], np.int32)
        y = np.stack([task.measurement for task, _ in filled])
        known = np.stack([task.loaded.known_mask for task, _ in filled])
        start = time.perf_counter()
        with found.relay.listen(self._progress):
            batch = restore.call(self._trained.weights, seed, index, label, y, known)
        self.seconds += time.perf_counter() - start
        self.count += len(jobs)
        for (task, _), image in zip(jobs, batch, strict=False):
            task.images.append(image)
            if len(task.images) == self._plan.samples:
                yield found.finish(task)


def _index(name: str) -> np.int32:
    """Returns the number by which something random is drawn."""
    return np.int32(zlib.crc32(name.encode()) & 0x7FFFFFFF)


class _Programs:
    """The programs for inputs of one size."""

    def __init__(
        self,
        how: restoration.Restoration,
        mesh: Mesh,
        relay: programs.ProgressRelay,
    ):
        self.how, self.relay = how, relay
        self.is_windowed = how.windows is not None
        self._mesh = mesh
        self._restore: dict[int, programs.Program] = {}
        self._measure = jax.jit(how.measure)
        self._guess, self._residual = jax.jit(how.guess), jax.jit(how.residual)

    def compile(self, batch_size: int) -> programs.Program:
        """Returns the program for batches of a size, which may be larger than asked."""
        if batch_size not in self._restore:
            self._restore[batch_size] = programs.compile_program(
                self.how.restore, self._mesh, batch_size, self.how.windows
            )
        return self._restore[batch_size]

    def measure_input(self, name: str, loaded: inputs.Loaded, seed: int) -> np.ndarray:
        """Returns the measurement of an input, made here if it came undegraded.

        Raises:
          ValueError: it came degraded, but otherwise than the settings say.
        """
        y, how = loaded.measurement, self.how
        if y is None:
            assert loaded.original is not None
            x = np.asarray(images.to_unit_range(loaded.original))[None]
            index, seeds = (
                np.array([_index(name)], np.int32),
                np.array([seed], np.uint32),
            )
            known = loaded.known_mask[None]
            return np.asarray(self._measure(x, known, seeds, index)[0])
        if y.shape != how.measured:
            raise ValueError(
                f"{name}: the measurement is {list(y.shape)}; of an image of "
                f"{how.size[0]}x{how.size[1]} pixels it is {list(how.measured)} "
                "(restore.size, restore.ratio)"
            )
        return y

    def finish(self, task: _Task) -> Restored:
        """Returns an input with its restorations and all that is known of them."""
        x = np.stack(task.images)
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
            original=task.loaded.original,
            known_mask=task.loaded.known_mask,
            residuals=np.asarray(self._residual(x, y, known)),
            residuals_stored=np.asarray(self._residual(again, y, known)),
        )
