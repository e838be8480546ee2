"""Feature extraction on the devices; images and features are on the host."""

from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int, UInt8

from simple_diffusion.core import images as pixels
from simple_diffusion.core.types import Params
from simple_diffusion.data import order
from simple_diffusion.evaluation.networks.feature_network import FeatureNetwork, Outputs
from simple_diffusion.pipelines import programs
from simple_diffusion.training import sharding


class Extractor:
    """Calls several networks on images: (images, position of the first) -> outputs.

    networks: with their weights.
    mesh: the devices, which share the images of a batch.
    batch_size: number of images per call.
    patch: side of a patch that is cut from each image. Its corner depends only on the
      position in the set, so that all sets are cut alike; None uses the full images.
    seed: seed of the patch corners.

    The outputs have the order of the images and are equal in all processes.
    """

    def __init__(
        self,
        networks: list[FeatureNetwork],
        mesh: Mesh,
        batch_size: int,
        patch: int | None = None,
        seed: int = 0,
    ):
        self.identity: dict[str, Any] = {
            "networks": {n.name: [n.digest, n.resize, n.version] for n in networks},
            "patch": None if patch is None else [patch, seed],
        }
        self._patch, self._seed = patch, seed
        params = {network.name: network.params for network in networks}
        self._params = jax.device_put(params, sharding.replicated_sharding(mesh))

        def extract(
            params: Params, images: jax.Array, corner: jax.Array
        ) -> dict[str, Outputs]:
            images = pixels.to_rgb(images)  # what the networks have learned
            if patch is not None:
                images = jax.vmap(partial(_cut, side=patch))(images, corner)
            return {n.name: n.apply(params[n.name], images) for n in networks}

        self._program = programs.compile_program(extract, mesh, batch_size, None)
        self._min_batch = mesh.shape["data"] * mesh.shape["fsdp"]

    def __call__(
        self, images: UInt8[Any, "b h w c"], position: int
    ) -> dict[str, Outputs]:
        """Returns the outputs of each network, by its name.

        Args:
          images: on the host, or as one batch over the devices.
          position: of the first image in its set.
        """
        size, outputs = self._program.batch_size, []
        for start in range(0, len(images), size):
            part = images if len(images) <= size else images[start : start + size]
            outputs.append(self._extract_batch(part, position + start))
        return jax.tree.map(lambda *parts: np.concatenate(parts), *outputs)

    def _extract_batch(self, images: Any, position: int) -> dict[str, Outputs]:
        n = len(images)
        padded = self._min_batch
        while padded < n:  # use few shapes, because each one is compiled
            padded = min(2 * padded, self._program.batch_size)
        if padded > n:
            images = np.concatenate(
                [images, np.zeros((padded - n, *images.shape[1:]), np.uint8)]
            )
        corner = np.zeros((padded, 2), np.int32)
        if self._patch is not None:
            space = np.array(images.shape[1:3]) - self._patch + 1
            corner[:n] = patch_corners(self._seed, position, n, space)
        outputs = self._program.call(self._params, images, corner)
        return jax.tree.map(lambda rows: rows[:n], outputs)


def patch_corners(
    seed: int, position: int, count: int, space: Int[np.ndarray, "2"]
) -> Int[np.ndarray, "count 2"]:
    """Returns the upper left corners (y, x) of patches, in pixels.

    Args:
      seed: seed of the random corners.
      position: of the first image.
      count: number of images.
      space: number of rows and columns at which a patch can begin.
    """
    draws = [order.make_generator(seed, position + k).random(2) for k in range(count)]
    return (np.stack(draws) * space[None]).astype(np.int32)


def _cut(image: jax.Array, corner: jax.Array, side: int) -> jax.Array:
    start = (corner[0], corner[1], 0)
    return jax.lax.dynamic_slice(image, start, (side, side, image.shape[-1]))
