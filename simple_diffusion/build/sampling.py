"""The section `sample`: from a model to images."""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from simple_diffusion.build import diffusion
from simple_diffusion.build.network import Model
from simple_diffusion.build.options import Config, pick
from simple_diffusion.core import images, rng
from simple_diffusion.core.types import Conditioning, DenoiseFn, Params, Solver
from simple_diffusion.diffusion import denoiser, process, schedules
from simple_diffusion.sampling import (
    generate,
    grids,
    guidance,
    loop,
    solvers,
    windows,
)
from simple_diffusion.training import sharding

Bind = Callable[[Conditioning], DenoiseFn]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which images are drawn.

    labels: the class of each image, [count].
    weights, checkpoint_step: which parameters, as in the config.
    guidance_workdir, guidance_step: of the weaker model to guide by, if any.
    """

    labels: np.ndarray
    batch_size: int
    weights: str
    checkpoint_step: int | None
    guidance_workdir: str | None
    guidance_step: int | None


def plan(config: Config, built: Model, class_names: tuple[str, ...]) -> Plan:
    """Returns which images `config.sample` asks for.

    Raises:
      ValueError: for numbers below 1 and for classes that do not exist.
    """
    c = config.sample
    for key in ("count", "batch_size"):
        if c[key] < 1:
            raise ValueError(f"sample.{key}={c[key]} must be at least 1")
    classes = parse_classes(c.classes, class_names, built.num_classes)
    labels = generate.balanced_labels(classes, c.count)
    return Plan(
        labels,
        c.batch_size,
        c.weights,
        c.checkpoint_step,
        c.guidance_workdir,
        c.guidance_step,
    )


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How images are drawn, as far as it does not depend on parameters.

    size: height and width of the images in pixels.
    draw: (params, weak params or None, index [b], label [b]) -> uint8 images
      [b, h, w, c]; pure, and an image depends on its own index and label alone.
    network_calls: per image, a guided one counting once.
    guidance: the weight in effect: 1 where there is nothing to be guided by.
    windows: how many an image is made of; None if it is made at once. Devices then
      share the windows of each image, otherwise the images of a batch.
    """

    size: tuple[int, int]
    draw: Callable[..., jax.Array]
    network_calls: int
    guidance: float
    windows: int | None


def sampling(
    config: Config,
    built: Model,
    weak: Model | None = None,
    *,
    size: str | None = None,
    mesh: Mesh | None = None,
) -> Sampling:
    """Returns the sampler of `config.sample`.

    A model that has neither classes nor a weaker model is not guided.

    Args:
      config: the whole config.
      built: the model.
      weak: the model to guide by, if not by the null class.
      size: HxW, in place of `sample.size`.
      mesh: the devices that share windows, if there are any.

    Raises:
      ValueError: for unknown names, sizes the network cannot divide, and a weaker model
        in which z has another scale.
    """
    c = config.sample
    key = "sample.size" if size is None else "sample.also_sizes"
    fine = _canvas(config, built, size or c.size, mesh, key)
    coarse = _coarse(config, built, fine)
    # Without anything to be guided by, 1: a recipe's guidance must not stop a folder of
    # pictures that has no classes.
    guided = built.num_classes > 0 or weak is not None
    guidance_weight = _guidance_weight(c) if guided else 1.0
    if weak is not None and weak.family != built.family:
        raise ValueError(
            f"sample.guidance_workdir: the weaker model has diffusion.family="
            f"{weak.family.name}, this one {built.family.name}"
        )
    if weak is not None:
        for canvas in (fine, coarse or fine):
            check_size(weak, canvas.input, "sample.guidance_workdir: sample.size")
    clips = {
        "static": guidance.clip_static,
        "dynamic": guidance.clip_dynamic,
        "none": lambda denoise: denoise,
    }
    clip = pick(clips, c.clip, "sample.clip")
    # Read here: what is traced later must not look at the config.
    seed, channels = c.seed, built.size[2]

    def draw(
        params: Params, weak_params: Params | None, index: jax.Array, label: jax.Array
    ) -> jax.Array:
        def denoiser_of(canvas: _Canvas) -> DenoiseFn:
            cond = Conditioning(label=label if built.num_classes else None)
            if built.knows_place or (weak is not None and weak.knows_place):
                box = jnp.broadcast_to(jnp.array([canvas.box]), (len(index), 4))
                cond = dataclasses.replace(cond, box=box, whole=canvas.told)
            strong = canvas.fuse(_bind(built, params))
            weaker = None if weak is None else canvas.fuse(_bind(weak, weak_params))
            return clip(
                _guided(guidance_weight, strong, weaker, cond, built.num_classes)
            )

        def fresh(canvas: _Canvas) -> jax.Array:
            keys = rng.per_example(rng.key_for(seed, 0, "sample"), index)
            shape = (*canvas.size, channels)
            denoise, how = denoiser_of(canvas), (canvas.solver, canvas.grid)
            return loop.sample(denoise, *how, keys, shape, built.family)

        if coarse is None:
            return images.to_uint8(fresh(fine))
        x = fine.enlarged(fresh(coarse), coarse.box)
        keys = rng.per_example(rng.key_for(seed, 0, "refine"), index)
        how = fine.solver, fine.grid[fine.late :]
        x = loop.refine(denoiser_of(fine), *how, keys, x, built.family)
        return images.to_uint8(x)

    per_step = 2 if c.solver == "heun" else 1
    network_calls = per_step * (len(fine.grid) - 1) + 1
    if coarse is not None:
        network_calls += per_step * (len(fine.grid) - fine.late - 1) + 1
    return Sampling(
        size=fine.size,
        draw=draw,
        network_calls=network_calls,
        guidance=c.guidance if guided else 1.0,
        windows=fine.windows,
    )


def further(
    config: Config, built: Model, mesh: Mesh | None = None
) -> dict[str, Sampling]:
    """Returns samplers of the sizes that are shown at the end of training."""
    sizes = config.sample.also_sizes
    return {size: sampling(config, built, size=size, mesh=mesh) for size in sizes}


@dataclasses.dataclass(frozen=True)
class _Canvas:
    """Images of one size, and the way to them.

    size: height and width.
    box, whole: the part of a whole image that they are, and its height and width.
    told: the height and width that the network is told, see `sample.extrapolate`.
    solver, grid: steps and noise levels of this size.
    late: where `sample.coarse_time` is in the grid.
    windows, fuse: how many an image is made of, and how they are put together.
    input: height and width of what the network is given at a time.
    """

    size: tuple[int, int]
    box: tuple[float, ...]
    whole: tuple[int, int]
    told: tuple[int, int]
    solver: Solver
    grid: np.ndarray
    late: int
    windows: int | None
    fuse: Callable[[Bind], Bind]
    input: tuple[int, int]

    def enlarged(self, x: jax.Array, box: tuple[float, ...]) -> jax.Array:
        """Returns smaller images at this size: the part of them that it is.

        Args:
          x: images that are the part `box` of the same whole.
          box: corners (y0, x0, y1, x1) of that part, which holds this one.
        """
        y0, x0, y1, x1 = box
        extent = y1 - y0, x1 - x0
        sides = [round(n * e) for n, e in zip(self.whole, extent, strict=True)]
        large = jax.image.resize(x, (len(x), *sides, x.shape[-1]), "cubic")
        top = round((self.box[0] - y0) * self.whole[0])
        left = round((self.box[1] - x0) * self.whole[1])
        height, width = self.size
        return large[:, top : top + height, left : left + width]


def _canvas(
    config: Config,
    built: Model,
    text: str | None,
    mesh: Mesh | None,
    key: str = "sample.size",
) -> _Canvas:
    c = config.sample
    size = parse_size(text, diffusion.reference(config), key)
    tiles = _windows(c, *size, mesh)
    if tiles:
        check_size(built, tiles.size, "sample.window")
    else:
        check_size(built, size, key)
    box, whole = _frame(c.frame, *size)
    # Beyond the largest size of the training noise and scale stay those of that size.
    told = whole
    if not c.extrapolate and built.largest is not None:
        # The longer side is the one that goes further beyond, unless it may be longer.
        longest = built.largest * built.aspect
        factor = min(1.0, built.largest / min(whole), longest / max(whole))
        told = round(factor * whole[0]), round(factor * whole[1])
    own = diffusion.schedule(config, math.sqrt(told[0] * told[1]))
    solver, grid = _solver(c, own, built.family)
    if not 0 < c.coarse_time <= 1:
        raise ValueError(f"sample.coarse_time={c.coarse_time} must be in (0, 1]")
    # A little less, lest rounding leave out the step that begins just there.
    level = float(own(jnp.float32(c.coarse_time))) - 1e-3
    late = min(int(np.searchsorted(grid, level)), len(grid) - 1)
    fuse = tiles.fuse if tiles else lambda bind: bind
    count = tiles.count if tiles else None
    part = tiles.size if tiles else size
    return _Canvas(size, box, whole, told, solver, grid, late, count, fuse, part)


def _coarse(config: Config, built: Model, fine: _Canvas) -> _Canvas | None:
    """Returns the canvas of the image that is drawn first; None if there is none."""
    text = config.sample.coarse_size
    if text is None:
        return None
    canvas = _canvas(config, built, text, None, "sample.coarse_size")
    if math.prod(canvas.whole) >= math.prod(fine.whole):
        return None
    (y0, x0, y1, x1), (a, b, c, d) = canvas.box, fine.box
    if y0 > a or x0 > b or y1 < c or x1 < d:
        raise ValueError(
            f"sample.coarse_size={text} shows less of the image than sample.size="
            f"{fine.size[0]}x{fine.size[1]} (sample.frame=cut); use a square one"
        )
    return canvas


def _frame(
    name: str, height: int, width: int
) -> tuple[tuple[float, ...], tuple[int, int]]:
    """Returns the box of an image, and the size of the whole that it belongs to."""
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

    ways = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
    fuse = functools.partial(
        windows.fused,
        window=side,
        stride=stride,
        batch=batch,
        taper=taper,
        devices=ways,
        constrain=constrain,
    )
    count = windows.count((height, width), side, stride)
    return _Tiles((min(side, height), min(side, width)), count, fuse)


def parse_size(
    text: str | None, resolution: int, key: str = "sample.size"
) -> tuple[int, int]:
    """Returns (height, width) of "HxW"; None is square at the resolution given."""
    if text is None:
        return resolution, resolution
    numbers = text.lower().split("x")
    # A zero passes: whoever checks what divides it names the nearest size.
    if len(numbers) != 2 or not all(n.isdecimal() for n in numbers):
        raise ValueError(f"{key}={text!r} must be HxW in pixels, such as 64x96")
    return int(numbers[0]), int(numbers[1])


def parse_classes(text: str | None, names: tuple[str, ...], count: int) -> list[int]:
    """Returns class numbers of "sun,3,house"; None is all classes.

    Args:
      text: names and numbers, separated by commas.
      names: of the classes, possibly empty.
      count: number of classes; 0 for a model without.

    Raises:
      ValueError: a class that does not exist, with those that do.
    """
    if text is None:
        return list(range(max(count, 1)))
    chosen = []
    for word in (w.strip() for w in text.split(",")):
        if word in names:
            chosen.append(names.index(word))
        elif word.isdecimal() and int(word) < count:
            chosen.append(int(word))
        else:
            known = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
            raise ValueError(
                f"sample.classes has {word!r}; this model has {count} classes, "
                f"0 to {count - 1}" + (f": {known}" if names else "")
            )
    return chosen


def _solver(
    c: Config, own: schedules.Schedule, family: process.Family
) -> tuple[Solver, np.ndarray]:
    table = {
        "ancestral": solvers.ancestral(family, c.gamma),
        "ddim": solvers.ddim(family, c.eta),
        "heun": solvers.heun(family),
        "dpmpp_2m": solvers.dpmpp_2m(family),
    }
    points = {
        "uniform_t": lambda n: grids.uniform_t(own, n),
        "uniform_logsnr": lambda n: grids.uniform_logsnr(own, n),
        "karras": grids.karras,
    }
    if c.steps < 1:
        raise ValueError(f"sample.steps={c.steps} must be at least 1")
    grid = pick(points, c.grid, "sample.grid")(c.steps)
    return pick(table, c.solver, "sample.solver"), grid


def _guidance_weight(c: Config) -> guidance.Weight:
    low = -math.inf if c.guidance_low is None else c.guidance_low
    high = math.inf if c.guidance_high is None else c.guidance_high
    if low == -math.inf and high == math.inf:
        return c.guidance
    return guidance.interval(c.guidance, low, high)


def _bind(built: Model, params: Params | None) -> Bind:
    def bind(cond: Conditioning) -> DenoiseFn:
        return denoiser.denoise_fn(built.apply, params, built.kind, cond, built.family)

    return bind


def _guided(
    weight: guidance.Weight,
    strong: Bind,
    weak: Bind | None,
    cond: Conditioning,
    num_classes: int,
) -> DenoiseFn:
    if weak is not None:
        return guidance.guide(strong(cond), weak(cond), weight)
    if not num_classes:
        return strong(cond)
    assert cond.label is not None
    null = dataclasses.replace(cond, label=jnp.full_like(cond.label, num_classes))
    return guidance.classifier_free(strong, cond, null, weight)


def check_size(built: Model, size: tuple[int, int], key: str) -> None:
    """Raises ValueError, naming the key, if the network cannot divide images so."""

    def trace() -> jax.Array:
        params = built.init(jax.random.key(0))
        label = jnp.zeros(1, jnp.int32) if built.num_classes else None
        z_t = jnp.zeros((1, *size, built.size[2]))
        return built.apply(params, z_t, jnp.zeros(1), Conditioning(label=label))

    # The network knows best what it can divide; shapes alone cost nothing.
    try:
        jax.eval_shape(trace)
    except ValueError as error:
        raise ValueError(f"{key}={size[0]}x{size[1]}: {error}") from None
