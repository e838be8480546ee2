"""The conditions of held-out images, which samples of an evaluation are asked for."""

from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Int

from simple_diffusion.build import data
from simple_diffusion.build.conditioning import field_conditions
from simple_diffusion.core.options import Config
from simple_diffusion.core.types import Request


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
