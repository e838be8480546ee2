"""Restores inputs of any sizes, in batches of one size each."""

import dataclasses
import time
import zlib
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from simple_diffusion.build.restoration import restoration
from simple_diffusion.core import images, memory
from simple_diffusion.core.options import Config
from simple_diffusion.core.types import Progress
from simple_diffusion.pipelines import keywords, programs, sampling
from simple_diffusion.pipelines.restoration import inputs
from simple_diffusion.pipelines.restoration.outputs import Restored
from simple_diffusion.pipelines.trained import Trained

# Keys of `restore` and `sample` that are arguments of a program or do not affect it.
_NOT_COMPILED = (
    *("restore.input", "restore.hole_mask", "restore.output", "restore.samples"),
    *("restore.classes", "restore.degrade", "restore.size", "restore.lpips_weights"),
    *("sample.seed", "sample.count", "sample.classes", "sample.batch_size"),
    *("sample.weights", "sample.checkpoint_step", "sample.best_checkpoint"),
    "sample.output",
)


@dataclasses.dataclass(frozen=True)
class _Task:
    """One input and its restorations so far."""

    name: str
    label: int
    loaded: inputs.Loaded
    measurement: np.ndarray
    images: list[np.ndarray] = dataclasses.field(default_factory=list)


class Restorer:
    """Restores inputs with one model, in batches of one size each.

    The random numbers of a restoration depend only on the name of its input and its
    index, not on the other inputs.

    seconds: time of all restorations so far, including compilation.
    count: number of restorations so far.
    network_calls: per restoration; 0 before the first input.
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
        """Prepares the restorations; nothing is compiled yet.

        Args:
          trained: the model.
          config: the whole config.
          plan: settings of the restoration.
          notify: called with messages for the user about each image size.
          progress: called at every step of a batch.
          cache: cache of compiled programs, by the settings that they depend on.
        """
        self.seconds, self.count, self.network_calls = 0.0, 0, 0
        self._trained, self._config, self._plan = trained, config, plan
        self._notify, self._progress = notify, progress
        self._batch_size = config.sample.batch_size
        self._cache = {} if cache is None else cache
        self._waiting: dict[tuple[int, int], list[tuple[_Task, int]]] = {}
        self._impossible: dict[tuple[int, int], str] = {}

    def add(self, item: inputs.Input, number: int) -> None:
        """Adds an input.

        Args:
          item: the input.
          number: index of the input, which selects its class.

        Raises:
          ValueError: the input cannot be used.
          OSError: the input cannot be read.
        """
        plan = self._plan
        loaded = inputs.load(plan, item, self._trained.net.size[2])
        size_programs = self._programs(loaded.size)
        y = size_programs.measure_input(item.name, loaded, plan.seed)
        label = plan.classes[number % len(plan.classes)]
        task = _Task(item.name, label, loaded, y)
        waiting = self._waiting.setdefault(loaded.size, [])
        waiting += [(task, k) for k in range(plan.samples)]

    def ready(self) -> Iterator[Restored]:
        """Restores full batches; yields the completed inputs."""
        for size, waiting in self._waiting.items():
            # If devices share the windows of an image, a batch is one image.
            count = 1 if self._programs(size).is_windowed else self._batch_size
            while len(waiting) >= count:
                yield from self._run(size, self._batch_size)

    def rest(self) -> Iterator[Restored]:
        """Restores the remaining incomplete batches; yields the completed inputs."""
        for size, waiting in self._waiting.items():
            while waiting:
                # Use the smallest batch for sizes that never filled one.
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
        size_programs = self._cache[key]
        self.network_calls = size_programs.functions.network_calls
        return size_programs

    def _new_programs(self, size: tuple[int, int]) -> "_Programs":
        trained = self._trained
        relay = programs.ProgressRelay(trained.mesh)
        functions = restoration.build_restoration(
            self._config,
            trained.net,
            size,
            trained.weak,
            mesh=trained.mesh,
            codec=trained.codec,
            progress=relay if self._progress is not None else None,
        )
        self._notify(
            f"{size[0]}x{size[1]} pixels: {functions.network_calls} network calls each"
            + (f", {functions.windows} windows an image" if functions.windows else "")
        )
        h, w, _ = trained.net.size
        if size != (h, w) and not (trained.net.knows_place or functions.windows):
            self._notify(
                f"note: this model was trained at {h}x{w} without data.patches and "
                f"supports other sizes poorly; restore.size={h}x{w} resizes the "
                f"inputs, sample.window={h} restores larger images in windows"
            )
        return _Programs(functions, trained.mesh, relay)

    def _run(self, size: tuple[int, int], batch_size: int) -> Iterator[Restored]:
        """Restores the first waiting batch; yields the completed inputs."""
        size_programs, waiting = self._programs(size), self._waiting[size]
        program = size_programs.compile(batch_size)
        n = program.batch_size
        jobs, waiting[:n] = waiting[:n], []
        # Pad the last batch by repeating its jobs, so that nothing is compiled again.
        padded = [jobs[k % len(jobs)] for k in range(n)]
        index = np.array([_index(f"{task.name}/{k}") for task, k in padded], np.int32)
        seed = np.full(n, self._plan.seed, np.uint32)
        label = np.array([task.label for task, _ in padded], np.int32)
        y = np.stack([task.measurement for task, _ in padded])
        known = np.stack([task.loaded.known_mask for task, _ in padded])
        start = time.perf_counter()
        windows = size_programs.functions.windows
        advice = sampling.advise(self._config, windows, "restore.size", batch_size)
        with memory.explain(advice), size_programs.relay.listen(self._progress):
            batch = program.call(self._trained.weights, seed, index, label, y, known)
        self.seconds += time.perf_counter() - start
        self.count += len(jobs)
        for (task, _), image in zip(jobs, batch, strict=False):
            task.images.append(image)
            if len(task.images) == self._plan.samples:
                yield size_programs.finish(task)


def _index(name: str) -> np.int32:
    """Returns the index from which random numbers are derived."""
    return np.int32(zlib.crc32(name.encode()) & 0x7FFFFFFF)


class _Programs:
    """The programs for inputs of one size."""

    def __init__(
        self,
        functions: restoration.Restoration,
        mesh: Mesh,
        relay: programs.ProgressRelay,
    ):
        self.functions, self.relay = functions, relay
        self.is_windowed = functions.windows is not None
        self._mesh = mesh
        self._restore: dict[int, programs.Program] = {}
        self._measure = jax.jit(functions.measure)
        self._guess, self._residual = (
            jax.jit(functions.guess),
            jax.jit(functions.residual),
        )

    def compile(self, batch_size: int) -> programs.Program:
        """Returns the program for a batch size, which it may round up."""
        if batch_size not in self._restore:
            self._restore[batch_size] = programs.compile_program(
                self.functions.restore, self._mesh, batch_size, self.functions.windows
            )
        return self._restore[batch_size]

    def measure_input(self, name: str, loaded: inputs.Loaded, seed: int) -> np.ndarray:
        """Returns the measurement of an input; degrades an original first.

        Raises:
          ValueError: the measurement has another shape than that of the settings.
        """
        y, functions = loaded.measurement, self.functions
        if y is None:
            assert loaded.original is not None
            x = np.asarray(images.to_unit_range(loaded.original))[None]
            index, seeds = (
                np.array([_index(name)], np.int32),
                np.array([seed], np.uint32),
            )
            known = loaded.known_mask[None]
            return np.asarray(self._measure(x, known, seeds, index)[0])
        if y.shape != functions.measured:
            raise ValueError(
                f"{name}: the measurement has shape {list(y.shape)}; for an image "
                f"of {functions.size[0]}x{functions.size[1]} pixels it must be "
                f"{list(functions.measured)} (restore.size, restore.ratio)"
            )
        return y

    def finish(self, task: _Task) -> Restored:
        """Returns an input with its restorations and their residuals."""
        x = np.stack(task.images)
        y, known = task.measurement[None], task.loaded.known_mask[None]
        guess = images.to_uint8(self._guess(y, known)[0])
        stored = np.asarray(images.to_uint8(x))
        rounded = np.asarray(images.to_unit_range(stored))
        return Restored(
            name=task.name,
            label=task.label,
            restored=stored,
            measurement=task.measurement,
            guess=np.asarray(guess),
            original=task.loaded.original,
            known_mask=task.loaded.known_mask,
            residuals=np.asarray(self._residual(x, y, known)),
            residuals_stored=np.asarray(self._residual(rounded, y, known)),
        )
