"""Functions of a model, compiled for the devices that share a batch."""

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
from simple_diffusion.core import memory
from simple_diffusion.core.types import Progress, Request, Weights
from simple_diffusion.sampling import generate
from simple_diffusion.training import sharding


class Program(NamedTuple):
    """A function of a model and a batch, compiled for the devices that share the batch.

    batch_size: number of images per call.
    call: (weights, *trees of arrays [b, ...]) -> arrays on the host.
    """

    batch_size: int
    call: Callable[..., Any]


def compile_program(
    function: Callable[..., Any], mesh: Mesh, batch_size: int, windows: int | None
) -> Program:
    """Returns a function that is compiled for a mesh at its first call.

    Args:
      function: (weights, *trees of arrays [b, ...]) -> arrays [b, ...].
      mesh: the devices.
      batch_size: number of images per call, rounded up to a multiple of the devices
        that share a batch. If the devices share windows, it is one image per call.
      windows: number of windows of an image; None without windows.

    The call raises `memory.OutOfMemory` if the program needs more memory than there is.
    """
    placement, rounded_size = sharding.replicated_sharding(mesh), 1
    if windows is None:
        function = sharding.pin_feature_maps(function, mesh)
        devices = mesh.shape["data"] * mesh.shape["fsdp"]
        rounded_size = math.ceil(batch_size / devices) * devices
        placement = sharding.batch_sharding(mesh)
    # Replicate the output, so that every process can write the images of all devices.
    compiled = jax.jit(function, out_shardings=sharding.replicated_sharding(mesh))
    is_checked = False

    def call(weights: Any, *batch: Any) -> Any:
        nonlocal is_checked
        arrays = jax.device_put(batch, placement)
        if not is_checked:  # the call below does not compile again
            memory.check(compiled.lower(weights, *arrays).compile(), mesh.local_devices)
            is_checked = True
        return jax.device_get(compiled(weights, *arrays))

    return Program(rounded_size, call)


@dataclasses.dataclass(frozen=True)
class Drawer:
    """Samples images of a model in batches; the program is compiled once."""

    program: Program
    seed: int

    def __call__(
        self, weights: Weights, request: Request, start: int = 0
    ) -> Iterator[np.ndarray]:
        """Yields batches of the requested images, uint8, from index `start`."""
        sample, batch_size = self._sample(weights), self.program.batch_size
        yield from generate.generate(sample, request, batch_size, start)

    def draw_at(
        self, weights: Weights, request: Request, places: Sequence[int]
    ) -> np.ndarray:
        """Returns only the images at the given indices."""
        sample, batch_size = self._sample(weights), self.program.batch_size
        return generate.generate_subset(sample, request, places, batch_size)

    def _sample(self, weights: Weights) -> Callable[..., Any]:
        def sample(index: np.ndarray, request: Request) -> Any:
            # Pass the seed as an argument, so that a new seed does not compile again.
            seed = np.full(len(index), self.seed, np.uint32)
            return self.program.call(weights, seed, index, request)

        return sample


def make_drawer(sampling: Sampling, mesh: Mesh, batch_size: int) -> Drawer:
    """Returns a drawer of the images of a model, with the seed of its config."""
    program = compile_program(sampling.draw, mesh, batch_size, sampling.windows)
    return Drawer(program, sampling.seed)


class ProgressRelay:
    """Passes the progress of a compiled program on to the current listener.

    The program is compiled with the relay, so that a new listener does not compile it
    again. An exception of the listener ends the program at once on one device. On
    several devices it is raised when the batch is complete: a device that stops alone
    leaves the others waiting for it, until the runtime aborts the process.

    Args:
      mesh: the devices of the program.
    """

    def __init__(self, mesh: Mesh):
        self._stops_at_once = mesh.size == 1
        self._listener: Progress | None = None
        self._error: BaseException | None = None

    def __call__(self, done: int, steps: int, x_hat: Any) -> None:
        """Called by the program."""
        if self._listener is None or self._error is not None:
            return
        try:
            self._listener(done, steps, np.asarray(x_hat))
        except BaseException as error:
            self._error = error
            if self._stops_at_once:
                raise

    @contextlib.contextmanager
    def listen(self, listener: Progress | None) -> Iterator[None]:
        """Calls the listener inside the context and raises its exceptions here."""
        self._listener, self._error = listener, None
        # JAX also logs the traceback of an exception of a callback; suppress that.
        log = logging.getLogger("jax._src.debugging")
        log.addFilter(self._is_unexpected)
        try:
            yield
            if listener is not None:
                jax.effects_barrier()
            if self._error is not None:
                raise self._error
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
