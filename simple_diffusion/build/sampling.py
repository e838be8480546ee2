"""The section `sample`: from a model to images."""

import dataclasses
import math
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from simple_diffusion.build.denoising import denoising
from simple_diffusion.build.image_geometry import Canvas, canvas
from simple_diffusion.build.network import Model
from simple_diffusion.core import images, rng
from simple_diffusion.core.options import Config, pick
from simple_diffusion.core.types import Params, Solver
from simple_diffusion.diffusion import process
from simple_diffusion.sampling import generate, loop, solvers

SOLVERS = ("ancestral", "ddim", "heun", "dpmpp_2m")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which images are drawn.

    labels: the class of each image, [count].
    weights, checkpoint_step, best_checkpoint: which parameters, as in the config.
    guidance_workdir, guidance_step: of the weaker model to guide by, if any.
    """

    labels: np.ndarray
    batch_size: int
    weights: str
    checkpoint_step: int | None
    best_checkpoint: bool
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
    if c.best_checkpoint and c.checkpoint_step is not None:
        raise ValueError(
            f"sample.best_checkpoint=True and sample.checkpoint_step="
            f"{c.checkpoint_step} are two ways to name a checkpoint; keep one"
        )
    classes = parse_classes(c.classes, class_names, built.num_classes)
    labels = generate.balanced_labels(classes, c.count)
    return Plan(
        labels,
        c.batch_size,
        c.weights,
        c.checkpoint_step,
        c.best_checkpoint,
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
    size_key: str = "sample.also_sizes",
    mesh: Mesh | None = None,
) -> Sampling:
    """Returns the sampler of `config.sample`.

    A model that has neither classes nor a weaker model is not guided.

    Args:
      config: the whole config.
      built: the model.
      weak: the model to guide by, if not by the null class.
      size: HxW, in place of `sample.size`.
      size_key: where that comes from, for messages.
      mesh: the devices that share windows, if there are any.

    Raises:
      ValueError: for unknown names, sizes the network cannot divide, and a weaker model
        in which z has another scale.
    """
    c = config.sample
    key = "sample.size" if size is None else size_key
    if c.steps < 1:
        raise ValueError(f"sample.steps={c.steps} must be at least 1")
    fine = canvas(config, built, size or c.size, c.steps, mesh=mesh, key=key)
    coarse = _coarse(config, built, fine)
    # Without anything to be guided by, 1: a recipe's guidance must not stop a folder of
    # pictures that has no classes.
    guided = built.num_classes > 0 or weak is not None
    own = denoising(config, built, weak, guided=guided, clip=c.clip)
    for each in (fine, coarse or fine):
        own.check(each)
    # Read here: what is traced later must not look at the config.
    seed, channels = c.seed, built.size[2]
    step = solver(config, c.solver, built.family, c.eta)
    if not 0 < c.coarse_time <= 1:
        raise ValueError(f"sample.coarse_time={c.coarse_time} must be in (0, 1]")
    late = fine.first(c.coarse_time)

    def draw(
        params: Params, weak_params: Params | None, index: jax.Array, label: jax.Array
    ) -> jax.Array:
        def fresh(canvas: Canvas) -> jax.Array:
            keys = rng.per_example(rng.key_for(seed, 0, "sample"), index)
            denoise = own.on(canvas, params, weak_params, label)
            shape = (*canvas.size, channels)
            return loop.sample(denoise, step, canvas.grid, keys, shape, built.family)

        if coarse is None:
            return images.to_uint8(fresh(fine))
        x = fine.enlarged(fresh(coarse), coarse.box)
        keys = rng.per_example(rng.key_for(seed, 0, "refine"), index)
        denoise = own.on(fine, params, weak_params, label)
        x = loop.refine(denoise, step, fine.grid[late:], keys, x, built.family)
        return images.to_uint8(x)

    per_step = calls_per_step(c.solver)
    network_calls = per_step * (len(fine.grid) - 1) + 1
    if coarse is not None:
        network_calls += per_step * (len(fine.grid) - late - 1) + 1
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


def _coarse(config: Config, built: Model, fine: Canvas) -> Canvas | None:
    """Returns the canvas of the image that is drawn first; None if there is none."""
    text = config.sample.coarse_size
    if text is None:
        return None
    steps, key = config.sample.steps, "sample.coarse_size"
    small = canvas(config, built, text, steps, key=key)
    if math.prod(small.whole) >= math.prod(fine.whole):
        return None
    (y0, x0, y1, x1), (a, b, c, d) = small.box, fine.box
    if y0 > a or x0 > b or y1 < c or x1 < d:
        raise ValueError(
            f"sample.coarse_size={text} shows less of the image than sample.size="
            f"{fine.size[0]}x{fine.size[1]} (sample.frame=cut); use a square one"
        )
    return small


def parse_classes(
    text: str | None,
    names: tuple[str, ...],
    count: int,
    key: str = "sample.classes",
) -> list[int]:
    """Returns class numbers of "sun,3,house"; None is all classes.

    Args:
      text: names and numbers, separated by commas.
      names: of the classes, possibly empty.
      count: number of classes; 0 for a model without.
      key: where the text comes from, for messages.

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
                f"{key} has {word!r}; this model has {count} classes, "
                f"0 to {count - 1}" + (f": {known}" if names else "")
            )
    return chosen


def solver(config: Config, name: str, family: process.Family, eta: float) -> Solver:
    """Returns a solver by name.

    Raises:
      ValueError: for an unknown name.
    """
    gamma = config.sample.gamma
    table = {
        "ancestral": lambda: solvers.ancestral(family, gamma),
        "ddim": lambda: solvers.ddim(family, eta),
        "heun": lambda: solvers.heun(family),
        "dpmpp_2m": lambda: solvers.dpmpp_2m(family),
    }
    return pick(table, name, "sample.solver")()


def calls_per_step(name: str) -> int:
    """Returns how often a solver calls the network in a step."""
    return 2 if name == "heun" else 1
