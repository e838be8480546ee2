"""Functions of a model, compiled for the devices that a batch is spread over."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from simple_diffusion.build.sampling import Sampling
from simple_diffusion.core.types import HostOrDevice, Params
from simple_diffusion.sampling import generate
from simple_diffusion.training import sharding


class Placed(NamedTuple):
    """A function of a model and a batch, compiled for the devices it is spread over.

    batch_size: images at a time.
    call: (params, weak params or None, *arrays of the batch) -> arrays on the host.
    """

    batch_size: int
    call: Callable[..., Any]


def placed(
    function: Callable[..., Any], mesh: Mesh, batch_size: int, windows: int | None
) -> Placed:
    """Returns a function compiled for a mesh.

    Args:
      function: (params, weak params or None, *arrays [b, ...]) -> arrays [b, ...].
      mesh: the devices.
      batch_size: images at a time, rounded up to a multiple of the devices that share
        it; where they share windows, there is one image at a time.
      windows: how many an image is made of; None if it is made at once.
    """
    place, most = sharding.replicated(mesh), 1
    if windows is None:
        function = sharding.pin_maps(function, mesh)
        ways = mesh.shape["data"] * mesh.shape["fsdp"]
        most = math.ceil(batch_size / ways) * ways
        place = sharding.batch_sharding(mesh)
    # Gathered: every process can then write images that another one's devices made.
    compiled = jax.jit(function, out_shardings=sharding.replicated(mesh))

    def call(params: Params, weak: Params | None, *batch: HostOrDevice) -> Any:
        return jax.device_get(compiled(params, weak, *jax.device_put(batch, place)))

    return Placed(most, call)


@dataclasses.dataclass(frozen=True)
class Drawer:
    """Draws images of a model: (params, labels, weak=None, start=0) -> uint8 batches.

    The first `start` images are left out. Compiled once, however often it is called.
    """

    placed: Placed

    def __call__(
        self,
        params: Params,
        labels: np.ndarray,
        weak: Params | None = None,
        start: int = 0,
    ) -> Iterator[np.ndarray]:
        """Yields the images from `start` on."""
        sample = functools.partial(self.placed.call, params, weak)
        yield from generate.generate(sample, labels, self.placed.batch_size, start)

    def chosen(
        self,
        params: Params,
        labels: np.ndarray,
        places: Sequence[int],
        weak: Params | None = None,
    ) -> np.ndarray:
        """Returns the images at some places alone."""
        sample = functools.partial(self.placed.call, params, weak)
        return generate.chosen(sample, labels, places, self.placed.batch_size)


def drawer(sampling: Sampling, mesh: Mesh, batch_size: int) -> Drawer:
    """Returns what draws images of a model."""
    return Drawer(placed(sampling.draw, mesh, batch_size, sampling.windows))
