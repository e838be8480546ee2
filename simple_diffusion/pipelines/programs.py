"""Functions of a model, compiled for the devices that a batch is spread over."""

import contextlib
import dataclasses
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from simple_diffusion.build.sampling import Sampling
from simple_diffusion.core.types import HostOrDevice, Progress, Weights
from simple_diffusion.sampling import generate
from simple_diffusion.training import sharding


class Program(NamedTuple):
    """A function of a model and a batch, compiled for the devices it is spread over.

    batch_size: images at a time.
    call: (weights, *arrays of the batch) -> arrays on the host.
    """

    batch_size: int
    call: Callable[..., Any]


def compile_program(
    function: Callable[..., Any], mesh: Mesh, batch_size: int, windows: int | None
) -> Program:
    """Returns a function compiled for a mesh, at its first call.

    Args:
      function: (weights, *arrays [b, ...]) -> arrays [b, ...].
      mesh: the devices.
      batch_size: images at a time, rounded up to a multiple of the devices that share
        it; where they share windows, there is one image at a time.
      windows: how many an image is made of; None if it is made at once.
    """
    place, most = sharding.replicated_sharding(mesh), 1
    if windows is None:
        function = sharding.pin_feature_maps(function, mesh)
        ways = mesh.shape["data"] * mesh.shape["fsdp"]
        most = math.ceil(batch_size / ways) * ways
        place = sharding.batch_sharding(mesh)
    # Gathered: every process can then write images that another one's devices made.
    compiled = jax.jit(function, out_shardings=sharding.replicated_sharding(mesh))

    def call(weights: Any, *batch: HostOrDevice) -> Any:
        return jax.device_get(compiled(weights, *jax.device_put(batch, place)))

    return Program(most, call)


@dataclasses.dataclass(frozen=True)
class Drawer:
    """Draws the images of a model in batches.

    Compiled once, however often it is called.
    """

    program: Program
    seed: int

    def __call__(
        self, weights: Weights, labels: np.ndarray, start: int = 0
    ) -> Iterator[np.ndarray]:
        """Yields uint8 images, from the `start`-th on, one for each label."""
        sample, batch_size = self._sample(weights), self.program.batch_size
        yield from generate.generate(sample, labels, batch_size, start)

    def draw_at(
        self, weights: Weights, labels: np.ndarray, places: Sequence[int]
    ) -> np.ndarray:
        """Returns the images at some places alone."""
        sample, batch_size = self._sample(weights), self.program.batch_size
        return generate.generate_subset(sample, labels, places, batch_size)

    def _sample(self, weights: Weights) -> Callable[..., Any]:
        def sample(index: np.ndarray, label: np.ndarray) -> Any:
            # An argument, so that another seed does not compile again.
            seed = np.full(len(index), self.seed, np.uint32)
            return self.program.call(weights, seed, index, label)

        return sample


def make_drawer(sampling: Sampling, mesh: Mesh, batch_size: int) -> Drawer:
    """Returns what draws the images of a model with the seed of its config."""
    program = compile_program(sampling.draw, mesh, batch_size, sampling.windows)
    return Drawer(program, sampling.seed)


class ProgressRelay:
    """Passes the progress of a compiled program on to whoever listens at the time.

    The program is compiled with the relay, so that another listener does not compile
    it again.
    """

    def __init__(self):
        self._listener: Progress | None = None
        self._error: BaseException | None = None

    def __call__(self, done: int, steps: int, x_hat: Any) -> None:
        """Is called by the program."""
        if self._listener is None:
            return
        try:
            self._listener(done, steps, np.asarray(x_hat))
        except BaseException as error:
            self._error = error
            raise  # which ends the program

    @contextlib.contextmanager
    def listen(self, listener: Progress | None) -> Iterator[None]:
        """Calls the listener while the context lasts; what it raises is raised here."""
        self._listener, self._error = listener, None
        # JAX logs the traceback of what a callback raises; it is raised here anyway.
        log = logging.getLogger("jax._src.debugging")
        log.addFilter(self._is_unexpected)
        try:
            yield
            if listener is not None:
                jax.effects_barrier()
        except jax.errors.JaxRuntimeError:
            if self._error is not None:
                raise self._error from None
            raise
        finally:
            self._listener = None
            log.removeFilter(self._is_unexpected)

    def _is_unexpected(self, record: logging.LogRecord) -> bool:
        del record
        return self._error is None
