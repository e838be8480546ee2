"""The section `sample`: from a model to images."""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from simple_diffusion.build import diffusion
from simple_diffusion.build.network import Model
from simple_diffusion.build.options import Config, pick
from simple_diffusion.core import images, rng
from simple_diffusion.core.types import Conditioning, DenoiseFn, Params, Solver
from simple_diffusion.diffusion import denoiser, process
from simple_diffusion.sampling import generate, grids, guidance, loop, solvers


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
    """

    size: tuple[int, int]
    draw: Callable[..., jax.Array]
    network_calls: int
    guidance: float


def sampling(config: Config, built: Model, weak: Model | None = None) -> Sampling:
    """Returns the sampler of `config.sample`.

    A model that has neither classes nor a weaker model is not guided.

    Args:
      config: the whole config.
      built: the model.
      weak: the model to guide by, if not by the null class.

    Raises:
      ValueError: for unknown names, sizes the network cannot divide, and a weaker model
        in which z has another scale.
    """
    c = config.sample
    size = parse_size(c.size, config.data.resolution)
    _check_size(built, size)
    solver, grid = _solver(config, built.family, math.sqrt(size[0] * size[1]))
    # Without anything to be guided by, 1: a recipe's guidance must not stop a folder of
    # pictures that has no classes.
    guided = built.num_classes > 0 or weak is not None
    guidance_weight = _guidance_weight(c) if guided else 1.0
    if weak is not None and weak.family != built.family:
        raise ValueError(
            f"sample.guidance_workdir: the weaker model has diffusion.family="
            f"{weak.family.name}, this one {built.family.name}"
        )
    clips = {
        "static": guidance.clip_static,
        "dynamic": guidance.clip_dynamic,
        "none": lambda denoise: denoise,
    }
    clip = pick(clips, c.clip, "sample.clip")
    # Read here: what is traced later must not look at the config.
    seed, guide = c.seed, functools.partial(_guided, guidance_weight)

    def draw(
        params: Params, weak_params: Params | None, index: jax.Array, label: jax.Array
    ) -> jax.Array:
        keys = rng.per_example(rng.key_for(seed, 0, "sample"), index)
        denoise = clip(guide(built, weak, params, weak_params, label))
        shape = (*size, built.size[2])
        x = loop.sample(denoise, solver, grid, keys, shape, built.family)
        return images.to_uint8(x)

    per_step = 2 if c.solver == "heun" else 1
    network_calls = per_step * (len(grid) - 1) + 1
    return Sampling(size, draw, network_calls, c.guidance if guided else 1.0)


def parse_size(text: str | None, resolution: int) -> tuple[int, int]:
    """Returns (height, width) of "HxW"; None is square at the training resolution."""
    if text is None:
        return resolution, resolution
    numbers = text.lower().split("x")
    if len(numbers) != 2 or not all(n.isdecimal() and int(n) > 0 for n in numbers):
        raise ValueError(f"sample.size={text!r} must be HxW in pixels, such as 64x96")
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
    config: Config, family: process.Family, side: int | float
) -> tuple[Solver, np.ndarray]:
    c, own = config.sample, diffusion.schedule(config, side)
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


def _guided(
    weight: guidance.Weight,
    built: Model,
    weak: Model | None,
    params: Params,
    weak_params: Params | None,
    label: jax.Array,
) -> DenoiseFn:
    def bind(cond: Conditioning) -> DenoiseFn:
        return denoiser.denoise_fn(built.apply, params, built.kind, cond, built.family)

    cond = Conditioning(label=label if built.num_classes else None)
    if weak is not None:
        weaker = denoiser.denoise_fn(
            weak.apply, weak_params, weak.kind, cond, weak.family
        )
        return guidance.guide(bind(cond), weaker, weight)
    if not built.num_classes:
        return bind(cond)
    null = Conditioning(label=jnp.full_like(label, built.num_classes))
    return guidance.classifier_free(bind, cond, null, weight)


def _check_size(built: Model, size: tuple[int, int]) -> None:
    def trace() -> jax.Array:
        params = built.init(jax.random.key(0))
        label = jnp.zeros(1, jnp.int32) if built.num_classes else None
        z_t = jnp.zeros((1, *size, built.size[2]))
        return built.apply(params, z_t, jnp.zeros(1), Conditioning(label=label))

    # The network knows best what it can divide; shapes alone cost nothing.
    try:
        jax.eval_shape(trace)
    except ValueError as error:
        raise ValueError(f"sample.size={size[0]}x{size[1]}: {error}") from None
