"""Requests for images like held-out examples of the data source."""

import functools
from typing import NamedTuple

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Int

from simple_diffusion.build import data, evaluation
from simple_diffusion.build.conditioning import field_conditions
from simple_diffusion.core.options import Config
from simple_diffusion.core.types import Request
from simple_diffusion.pipelines.trained import Examples
from simple_diffusion.training import sharding

Size = tuple[int, int]


class HeldOut(NamedTuple):
    """What n samples are asked to show.

    request: conditions of held-out images.
    positions: of these images in the pass over held-out images, see `Data.select`.
    """

    request: Request
    positions: Int[np.ndarray, "n"]


def read_held_out(
    config: Config,
    dataset: data.Data | None,
    batch_size: int,
    size: tuple[int, int],
    count: int,
) -> HeldOut:
    """Returns the conditions of held-out images, repeated if there are too few.

    Args:
      config: the whole config.
      dataset: the data source, if there is one.
      batch_size: images per batch, a multiple of the devices that share a batch.
      size: height and width of the images.
      count: number of samples.

    Raises:
      ValueError: there is no data source.
    """
    if dataset is None:
        raise ValueError(
            "a model with conditions is evaluated on those of held-out images of "
            "data.source, which cannot be opened"
        )
    requests, positions = [], []
    for k, batch in enumerate(dataset.full_images(count, batch_size, size)):
        batch = multihost_utils.process_allgather(batch, tiled=True)
        request = field_conditions.request_of_batch(config, batch)
        good = np.flatnonzero(batch.mask)
        requests.append(request.at(good))
        positions.append(k * batch_size + good)
    joined = jax.tree.map(lambda *parts: np.concatenate(parts), *requests)
    rows = np.arange(count) % len(joined.label)
    return HeldOut(joined.at(rows), np.concatenate(positions)[rows])


def of_data(config: Config, dataset: data.Data, mesh: Mesh) -> Examples:
    """Returns (number, size) -> a request like the held-out examples of a source."""
    devices = mesh.shape["data"] * mesh.shape["fsdp"]
    most = evaluation.read_plan(config).batch_size

    def read(count: int, size: Size) -> Request:
        # As many on each device.
        batch_size = -(-min(most, count) // devices) * devices
        return read_held_out(config, dataset, batch_size, size, count).request

    return read


def of_config(config: Config, mesh: Mesh, folder: epath.Path) -> Examples:
    """Returns the same for the source of a config, opened when it is needed."""

    @functools.cache
    def source() -> data.Data:
        share = sharding.data_shard(mesh)
        return field_conditions.open_data(config, share, folder)[0]

    return lambda count, size: of_data(config, source(), mesh)(count, size)
