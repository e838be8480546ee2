"""Requests for images like held-out examples of the data source."""

import functools

import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from simple_diffusion.build import data, evaluation
from simple_diffusion.build.conditioning import field_conditions
from simple_diffusion.core.options import Config
from simple_diffusion.core.types import Request
from simple_diffusion.pipelines.requests.plan import join_requests
from simple_diffusion.pipelines.trained import Examples
from simple_diffusion.training import sharding

Size = tuple[int, int]


def of_data(config: Config, dataset: data.Data, mesh: Mesh) -> Examples:
    """Returns (number, size) -> a request like the held-out examples of a source."""
    devices = mesh.shape["data"] * mesh.shape["fsdp"]
    most = evaluation.read_plan(config).batch_size

    def read(count: int, size: Size) -> Request:
        found = []
        # As many on each device.
        batch_size = -(-min(most, count) // devices) * devices
        for batch in dataset.full_images(count, batch_size, size):
            # Every process has read a part.
            batch = multihost_utils.process_allgather(batch, tiled=True)
            request = field_conditions.request_of_batch(config, batch)
            found.append(request.at(np.asarray(batch.mask)))
        return join_requests(found, count)

    return read


def of_config(config: Config, mesh: Mesh, folder: epath.Path) -> Examples:
    """Returns the same for the source of a config, opened when it is needed."""

    @functools.cache
    def source() -> data.Data:
        share = sharding.data_shard(mesh)
        return field_conditions.open_data(config, share, folder)[0]

    return lambda count, size: of_data(config, source(), mesh)(count, size)
