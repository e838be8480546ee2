"""Images of one size: their noise levels, their windows, and checks of the size."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from simple_diffusion.build import diffusion
from simple_diffusion.build.network import Network
from simple_diffusion.core import options
from simple_diffusion.core.options import Config, pick
from simple_diffusion.core.types import Conditioning, DenoiseFn
from simple_diffusion.diffusion import discrete, schedules
from simple_diffusion.nets.conditioning import specs
from simple_diffusion.sampling import grids, windows
from simple_diffusion.training import sharding

Bind = Callable[[Conditioning], DenoiseFn]


@dataclasses.dataclass(frozen=True)
class ImageGeometry:
    """Images of one size, and how they are sampled.

    size: height and width.
    box, full_size: the part of a full image that is sampled, and the height and width
      of the full image.
    network_size: height and width of the full image as passed to the network, see
      `sample.extrapolate`.
    schedule, grid: the schedule of this size, and the noise levels of the solver.
    windows, fuse: number of windows of an image, and the function that fuses them;
      `windows` is None without windows.
    input: height and width of one network input.
    """

    size: tuple[int, int]
    box: tuple[float, ...]
    full_size: tuple[int, int]
    network_size: tuple[int, int]
    schedule: schedules.Schedule
    grid: np.ndarray
    windows: int | None
    fuse: Callable[[Bind], Bind]
    input: tuple[int, int]

    def start_index(self, t: float) -> int:
        """Returns the index of the first grid level whose time is at most t."""
        # Slightly less, so that rounding does not skip the step that starts there.
        level = float(self.schedule(jnp.float32(t))) - 1e-3
        return min(int(np.searchsorted(self.grid, level)), len(self.grid) - 1)

    def enlarge(self, x: jax.Array, box: tuple[float, ...]) -> jax.Array:
        """Returns smaller images enlarged to this size and cropped to this part.

        Args:
          x: images of the part `box` of the same full image.
          box: corners (y0, x0, y1, x1) of that part, which must contain this one.
        """
        y0, x0, y1, x1 = box
        extent = y1 - y0, x1 - x0
        sides = [round(n * e) for n, e in zip(self.full_size, extent, strict=True)]
        large = jax.image.resize(x, (len(x), *sides, x.shape[-1]), "cubic")
        top = round((self.box[0] - y0) * self.full_size[0])
        left = round((self.box[1] - x0) * self.full_size[1])
        height, width = self.size
        return large[:, top : top + height, left : left + width]


def build_geometry(
    config: Config,
    net: Network,
    text: str | None,
    steps: int,
    *,
    mesh: Mesh | None = None,
    key: str = "sample.size",
) -> ImageGeometry:
    """Returns the geometry of a size, with the windows of `config.sample`.

    Args:
      config: the whole config.
      net: the model.
      text: HxW; None means images of the reference size.
      steps: number of noise levels of the solver.
      mesh: the devices that share windows; None without windows.
      key: config key of the size, for messages.

    Raises:
      ValueError: the size cannot be parsed, or the network does not support it.
    """
    c = config.sample
    size = parse_size(text, diffusion.reference_size(config), key)
    tiles = _windows(c, *size, mesh)
    if tiles:
        check_size(net, tiles.size, "sample.window")
    else:
        check_size(net, size, key)
    box, full_size = _frame(c.frame, *size)
    # Above the largest training size, keep the noise and scale of that size.
    network_size = full_size
    if not c.extrapolate and net.largest is not None:
        # The longer side has its own limit: the training may allow longer images.
        longest = net.largest * net.aspect
        factor = min(1.0, net.largest / min(full_size), longest / max(full_size))
        network_size = round(factor * full_size[0]), round(factor * full_size[1])
    schedule = diffusion.build_schedule(
        config, math.sqrt(network_size[0] * network_size[1])
    )
    fuse = tiles.fuse if tiles else lambda bind: bind
    count = tiles.count if tiles else None
    input_size = tiles.size if tiles else size
    levels = _grid(c.grid, schedule, steps)
    return ImageGeometry(
        size, box, full_size, network_size, schedule, levels, count, fuse, input_size
    )


def _grid(name: str, schedule: schedules.Schedule, steps: int) -> np.ndarray:
    points = {
        "uniform_t": lambda n: grids.uniform_t(schedule, n),
        "uniform_logsnr": lambda n: grids.uniform_logsnr(schedule, n),
        "karras": grids.karras,
        **{
            spacing: functools.partial(_table_grid, schedule, spacing)
            for spacing in get_args(grids.Spacing)
        },
    }
    return pick(points, name, "sample.grid")(steps)


def _table_grid(
    schedule: schedules.Schedule, spacing: grids.Spacing, steps: int
) -> np.ndarray:
    """Returns steps of the table of a discrete schedule, shifted as the schedule is."""
    shift = 0.0
    if isinstance(schedule, schedules.ShiftedSchedule):
        shift, schedule = float(schedule.shift), schedule.base
    if not isinstance(schedule, discrete.TabulatedSchedule):
        raise ValueError(
            f"sample.grid={spacing} chooses steps of diffusion.schedule.name=discrete; "
            "this schedule has none: use uniform_t, uniform_logsnr or karras"
        )
    try:
        return grids.discrete(schedule, steps, spacing) + np.float32(shift)
    except ValueError as error:
        raise ValueError(f"sample.steps={steps}: {error}") from None


def _frame(
    name: str, height: int, width: int
) -> tuple[tuple[float, ...], tuple[int, int]]:
    """Returns the box of an image in its full image, and the size of the latter."""
    side = max(height, width)
    y, x = 0.5 * height / side, 0.5 * width / side
    frames = {
        "whole": ((0.0, 0.0, 1.0, 1.0), (height, width)),
        "cut": ((0.5 - y, 0.5 - x, 0.5 + y, 0.5 + x), (side, side)),
    }
    return pick(frames, name, "sample.frame")


@dataclasses.dataclass(frozen=True)
class _Tiles:
    """The windows of an image: their size, their number, and how they are fused."""

    size: tuple[int, int]
    count: int
    fuse: Callable[[Bind], Bind]


def _windows(c: Config, height: int, width: int, mesh: Mesh | None) -> _Tiles | None:
    side, stride = c.window, c.window_stride
    batch, taper = c.window_batch, c.window_taper
    if side is None:
        return None
    if side < 1:
        raise ValueError(f"sample.window={side} must be at least 1 pixel")
    stride = max(1, side // 2) if stride is None else stride

    def constrain(x: jax.Array) -> jax.Array:
        if mesh is None:
            return x
        place = sharding.batch_sharding(mesh)
        return jax.lax.with_sharding_constraint(x, place)

    devices = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
    fuse = functools.partial(
        windows.fuse_windows,
        window=side,
        stride=stride,
        batch=batch,
        taper=taper,
        devices=devices,
        constrain=constrain,
    )
    count = windows.count_windows((height, width), side, stride)
    return _Tiles((min(side, height), min(side, width)), count, fuse)


def parse_size(
    text: str | None, default: tuple[int, int], key: str = "sample.size"
) -> tuple[int, int]:
    """Returns (height, width) of "HxW"; the default for None."""
    return default if text is None else options.parse_size(text, key)


def check_size(net: Network, size: tuple[int, int], key: str) -> None:
    """Raises ValueError if the network does not support a size.

    The message names the key of the size, or the section `model` if the network does
    not even support the size that it is trained at.
    """
    # Only the network knows its sizes.
    try:
        _trace(net, size)
    except ValueError as error:
        try:
            _trace(net, (net.size[0], net.size[1]))
        except ValueError as of_model:
            raise ValueError(f"model: {of_model}") from None
        raise ValueError(f"{key}={size[0]}x{size[1]}: {error}") from None


@functools.lru_cache(64)  # tracing a large network takes seconds
def _trace(net: Network, size: tuple[int, int]) -> None:
    def call() -> jax.Array:
        params = net.init(jax.random.key(0))
        label = jnp.zeros(1, jnp.int32) if net.num_classes else None
        z_t = jnp.zeros((1, *size, net.size[2]))
        cond = Conditioning(label, fields=specs.examples(net.conditions, 1, size))
        return net.apply(params, z_t, jnp.zeros(1), cond)

    jax.eval_shape(call)
