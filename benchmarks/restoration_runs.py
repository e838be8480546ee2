"""Restores held-out images with a trained model, for `restoration`.

All settings see the same images, masks and random numbers: the random numbers of an
image follow from its index.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8
from ml_collections import ConfigDict
from PIL import Image

from benchmarks import recipe
from simple_diffusion.build import data, diffusion, network
from simple_diffusion.build.image_geometry import parse_size
from simple_diffusion.build.restoration import restoration
from simple_diffusion.core import files, images
from simple_diffusion.core.options import Config
from simple_diffusion.core.types import Params, Weights
from simple_diffusion.pipelines import open_run, runs
from simple_diffusion.pipelines.restoration import masks
from simple_diffusion.training import sharding


@dataclasses.dataclass(frozen=True)
class Bench:
    """A trained model, and images it was not trained on.

    recipe: its config, as plain values.
    step: of the checkpoint.
    originals, labels: the images, and the class of each.
    batch_size: images restored at a time.
    """

    recipe: dict[str, Any]
    net: network.Network
    params: Params
    step: int | None
    originals: UInt8[np.ndarray, "n h w c"]
    labels: np.ndarray
    batch_size: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.originals.shape[1], self.originals.shape[2]


def bench(name: str, workdir: str, count: int, batch_size: int) -> Bench:
    """Opens a workdir, and reads held-out images of the source it was trained on.

    Args:
      name: of the config that it was trained with.
      workdir: of the training run.
      count: how many images.
      batch_size: images restored at a time.
    """
    # What is restored, for `inputs`, as the flags of mode restore would say.
    asked = {"restore.input": f"held_out:{count}", "restore.degrade": True}
    values = recipe.changed(recipe.load(name), asked)
    config: Config = ConfigDict(values)
    folder = files.resolve_folder(workdir)
    classes = runs.load_classes(folder)
    runs.print_differences(config, folder)
    net = network.build_network(config, len(classes))
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    step, params = open_run.load_named(folder, net, mesh, config.sample.weights)
    size = parse_size(
        config.restore.size, diffusion.reference_size(config), "restore.size"
    )
    read = list(data.open_data(config).full_images(count, 1, size))
    originals = np.concatenate([np.asarray(one.image) for one in read])
    labels = np.concatenate([np.asarray(one.label) for one in read])
    return Bench(values, net, params, step, originals, labels, batch_size)


class Setting:
    """One way to restore the images of a bench, compiled.

    Attributes:
      how: the functions behind it.
      degradation: what was lost.
      known: 1 where a pixel is known, [n, h, w, 1].
    """

    def __init__(self, bench: Bench, keys: dict[str, Any]):
        """Compiles.

        Args:
          bench: the model and the images.
          keys: of the config, that differ from it. With any `restore.classes` the model
            is told the true ones.
        """
        config: Config = ConfigDict(recipe.changed(bench.recipe, keys))
        self._bench, self._guided = bench, config.restore.classes is not None
        self._seed = config.sample.seed
        plan = restoration.read_plan(config, bench.net, ())
        self.degradation, self.known = plan.degradation, _known(plan, bench)
        self.how = restoration.build_restoration(config, bench.net, bench.size)
        b, shape = bench.batch_size, jax.ShapeDtypeStruct
        number = shape((b,), np.int32)
        y = shape((b, *self.how.measured), np.float32)
        known = shape((b, *bench.size, 1), np.float32)
        traced = jax.jit(self.how.restore).lower(
            *(Weights(bench.params), number, number, number, y, known)
        )
        self._restore = traced.compile()

    def measure(self) -> np.ndarray:
        """Returns the measurement of each image, with noise."""
        x = images.to_unit_range(self._bench.originals)
        index = np.arange(len(x), dtype=np.int32)
        seed = np.full_like(index, self._seed)
        return np.asarray(jax.jit(self.how.measure)(x, self.known, seed, index))

    def guess(self, y: np.ndarray) -> np.ndarray:
        """Returns the pseudo-inverse of the measurement of each image."""
        return np.asarray(jax.jit(self.how.guess)(y, self.known))

    def residual(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Returns how far images are from their measurements.

        Args:
          x: as many of each image as there are, one after the other.
          y: the measurement of each image.
        """
        samples = len(x) // len(y)
        y, known = (np.repeat(array, samples, axis=0) for array in (y, self.known))
        return np.asarray(jax.jit(self.how.residual)(x, y, known))

    def restore(
        self, y: np.ndarray, samples: int = 1, chosen: np.ndarray | None = None
    ) -> tuple[Float[np.ndarray, "n h w c"], float]:
        """Returns restorations, and how many seconds one of them took.

        Args:
          y: the measurement of each image.
          samples: restorations of each image, which are returned one after the other.
          chosen: the numbers of the images that are restored; by default all.
        """
        every = np.arange(len(y)) if chosen is None else chosen
        number = np.repeat(every, samples)
        index = number * samples + np.tile(np.arange(samples), len(every))
        label = self._bench.labels[number]
        if not self._guided:
            label = np.full_like(label, self._bench.net.num_classes)
        made, seconds, size = [], [], self._bench.batch_size
        for first in range(0, len(number), size):
            # What fills up the last batch is there anyway.
            rows = np.arange(first, first + size) % len(number)
            batch = index[rows].astype(np.int32), label[rows].astype(np.int32)
            seed = np.full(len(rows), self._seed, np.int32)
            seen = number[rows]
            start = time.perf_counter()
            x = self._restore(
                *(Weights(self._bench.params), seed, *batch),
                *(y[seen], self.known[seen]),
            )
            made.append(np.asarray(x))
            seconds.append(time.perf_counter() - start)
        return np.concatenate(made)[: len(number)], statistics.median(seconds) / size


def _known(plan: restoration.Plan, bench: Bench) -> Float[np.ndarray, "n h w 1"]:
    """Returns the masks that mode `restore` makes, one for each image."""
    known = np.ones((len(bench.originals), *bench.size, 1), np.float32)
    if plan.hole_mask is not None:
        for k in range(len(known)):
            place = f"{k:04d}", bench.size, bench.size, plan.seed, False
            known[k] -= masks.load_hole_mask(plan.hole_mask, *place)
    return known


Baseline = Callable[
    [Float[np.ndarray, "n H W c"], Float[np.ndarray, "n h w 1"]],
    Float[np.ndarray, "n h w c"],
]


def nearest(
    y: Float[np.ndarray, "n h w c"], known: Float[np.ndarray, "n h w 1"]
) -> Float[np.ndarray, "n h w c"]:
    """Returns images whose missing pixels are each the nearest known one.

    Args:
      y: images; what stands at missing pixels is not looked at.
      known: 1 where a pixel is known, at least at one in each image.
    """
    return np.stack([_filled(*pair) for pair in zip(y, known, strict=True)])


def _filled(
    image: Float[np.ndarray, "h w c"], known: Float[np.ndarray, "h w 1"]
) -> Float[np.ndarray, "h w c"]:
    there, missing = np.argwhere(known[..., 0] > 0), np.argwhere(known[..., 0] <= 0)
    squared = np.square(missing[:, None] - there).sum(2)
    source = there[squared.argmin(1)]  # of equally near ones the first, row by row
    filled = image.copy()
    filled[missing[:, 0], missing[:, 1]] = image[source[:, 0], source[:, 1]]
    return filled


def bicubic(
    y: Float[np.ndarray, "n H W c"], known: Float[np.ndarray, "n h w 1"]
) -> Float[np.ndarray, "n h w c"]:
    """Returns images enlarged by Pillow, in float, to the size of the masks."""
    height, width = known.shape[1:3]

    def enlarged(channel: Float[np.ndarray, "H W"]) -> np.ndarray:
        size = width, height
        return np.asarray(
            Image.fromarray(channel).resize(size, Image.Resampling.BICUBIC)
        )

    small = np.moveaxis(y.astype(np.float32), 3, 1)
    large = np.stack([[enlarged(channel) for channel in image] for image in small])
    return np.moveaxis(large, 1, 3)
