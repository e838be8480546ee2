"""Drawing images of a model and laying them out for a person."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from simple_diffusion.build.sampling import Sampling
from simple_diffusion.core import images
from simple_diffusion.core.types import HostOrDevice, Params
from simple_diffusion.sampling import generate
from simple_diffusion.training import pinning, sharding

# Smaller images are enlarged by whole factors up to this side, or nobody sees them.
VISIBLE = 64
MAX_COLUMNS = 16


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
        function = pinning.pinned(function, mesh)
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


def write_grid(path: epath.Path, pictures: np.ndarray, labels: np.ndarray) -> None:
    """Writes images in rows; where the classes come in turn, each has its column."""
    n = len(labels)
    turns = (k for k in range(2, min(n, MAX_COLUMNS) + 1))
    columns = next((k for k in turns if (labels[k:] == labels[: n - k]).all()), None)
    if len(np.unique(labels)) == 1:
        columns = None
    write_sheet(path, pictures, columns)


def write_sheet(path: epath.Path, pictures: np.ndarray, columns: int | None) -> None:
    """Writes images in rows of so many; small ones are enlarged by a whole factor."""
    factor = max(1, VISIBLE // min(pictures.shape[1:3]))
    images.write_png(path, images.enlarge(images.grid(pictures, columns), factor))


def file_name(number: int, digits: int, name: str) -> str:
    """Returns "007_some_name.png"; what a file system might not like is left out."""
    safe = "".join(c if c.isalnum() else "_" for c in name)
    return f"{number:0{digits}d}_{safe}.png"
