"""The section `sample`: from a model to images."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from simple_diffusion.build.codec import PIXELS
from simple_diffusion.build.conditioning.kinds import CONDITIONS
from simple_diffusion.build.denoising import build_denoising
from simple_diffusion.build.image_geometry import ImageGeometry, build_geometry
from simple_diffusion.build.network import Network
from simple_diffusion.core import images, rng
from simple_diffusion.core.options import Config, pick
from simple_diffusion.core.types import Codec, Key, Progress, Request, Solver, Weights
from simple_diffusion.diffusion import process
from simple_diffusion.sampling import loop, solvers
from simple_diffusion.training import ema

SOLVERS = ("ancestral", "ddim", "heun", "dpmpp_2m")
_POWER = "power_"


@dataclasses.dataclass(frozen=True)
class CheckpointChoice:
    """Which parameters to load, of the run and of the weaker model that guides it.

    weights: "ema", "params" or "power_LENGTH".
    step: of the checkpoint; None is the newest.
    is_best: whether to load the best checkpoint instead.
    guidance_workdir, guidance_step: of the weaker model for guidance, if there is one.
    """

    weights: str
    step: int | None
    is_best: bool
    guidance_workdir: str | None
    guidance_step: int | None


def read_checkpoint_choice(config: Config) -> CheckpointChoice:
    """Returns the checkpoint that `config.sample` asks for.

    Raises:
      ValueError: the config names two checkpoints, or no kind of parameters.
    """
    c = config.sample
    parse_weights(c.weights)
    if c.best_checkpoint and c.checkpoint_step is not None:
        raise ValueError(
            f"sample.best_checkpoint=True and sample.checkpoint_step="
            f"{c.checkpoint_step} are two ways to name a checkpoint; keep one"
        )
    return CheckpointChoice(
        c.weights,
        c.checkpoint_step,
        c.best_checkpoint,
        c.guidance_workdir,
        c.guidance_step,
    )


def parse_weights(name: str) -> float | None:
    """Returns the length of a power-function average; None for "ema" and "params".

    Raises:
      ValueError: the name has another form.
    """
    if name in ("ema", "params"):
        return None
    try:
        if not name.startswith(_POWER):
            raise ValueError(
                "it must be ema, params or power_LENGTH, such as power_0.07"
            )
        length = float(name.removeprefix(_POWER))
        ema.gamma_of(length)
    except ValueError as error:
        raise ValueError(f"sample.weights={name!r}: {error}") from None
    return length


def check_weights_are_tracked(config: Config) -> None:
    """Raises ValueError if a training does not track what `sample.weights` names."""
    name, tracked = config.sample.weights, tuple(config.ema.power)
    length = parse_weights(name)
    can_be_reconstructed = tracked and config.ema.snapshot_every_steps
    if length is None or length in tracked or can_be_reconstructed:
        return
    raise ValueError(
        f"sample.weights={name!r} needs an average that this training does not track: "
        f"add {length:g} to ema.power={tracked}; for lengths that are not in it, set "
        "ema.snapshot_every_steps as well"
    )


@dataclasses.dataclass(frozen=True)
class Sampling:
    """A sampler, as far as it does not depend on parameters.

    size: height and width of the images in pixels.
    draw: (weights, seed [b], index [b], request of b images) -> uint8 images [b, h, w,
      c]. A pure function; an image depends only on its own seed, index and request.
    seed: the seed of the config.
    network_calls: per image; a guided call counts once.
    guidance: the weight in effect; 1 if guidance is not possible.
    windows: number of windows of an image; None without windows. With windows the
      devices share the windows of each image, otherwise the images of a batch.
    """

    size: tuple[int, int]
    draw: Callable[..., jax.Array]
    seed: int
    network_calls: int
    guidance: float
    windows: int | None


def build_sampling(
    config: Config,
    net: Network,
    weak: Network | None = None,
    *,
    size: str | None = None,
    size_key: str = "sample.also_sizes",
    mesh: Mesh | None = None,
    codec: Codec = PIXELS,
    progress: Progress | None = None,
) -> Sampling:
    """Returns the sampler of `config.sample`.

    A model with neither conditions nor a weaker model is not guided.

    Args:
      config: the whole config.
      net: the model.
      weak: the weaker model for guidance; None guides by the null class.
      size: HxW, instead of `sample.size`.
      size_key: config key of `size`, for messages.
      mesh: the devices that share windows; None without windows.
      codec: from the space of the model to images.
      progress: called on the host at every step of the solver.

    Raises:
      ValueError: a name is unknown, the network does not support a size, or z has
        another scale in the weaker model.
    """
    c = config.sample
    key = "sample.size" if size is None else size_key
    fine = build_geometry(config, net, size or c.size, c.steps, mesh=mesh, key=key)
    coarse = _coarse(config, net, fine)
    # Without conditions and a weaker model the weight is 1: the guidance of a recipe
    # must not be an error for an image folder without classes.
    guided = net.is_conditional or weak is not None
    guided_model = build_denoising(config, net, weak, guided=guided, clip=c.clip)
    for geometry in (fine, coarse or fine):
        guided_model.check(geometry)
    _check_conditions(net, fine, coarse)
    # Read the config here: traced functions must not depend on it later.
    channels, family = net.size[2], net.family
    step = build_solver(config, c.solver, family, c.eta)
    late = fine.start_index(c.coarse_time)
    stages = [len(fine.grid)]
    if coarse is not None:
        stages = [len(coarse.grid), len(fine.grid) - late]

    def draw(
        weights: Weights, seed: jax.Array, index: jax.Array, request: Request
    ) -> jax.Array:
        def keys(name: str) -> Key:
            return jax.vmap(lambda s, k: rng.derive_example_key(s, name, k))(
                seed, index
            )

        def sample(geometry: ImageGeometry) -> jax.Array:
            denoise = guided_model.on(geometry, weights, request)
            shape = (*geometry.size, channels)
            return loop.sample(
                *(denoise, step, geometry.grid, keys("sample"), shape, family),
                progress=_stage(progress, stages, 0),
            )

        x = sample(coarse or fine)
        if coarse is not None:
            x = loop.refine(
                *(guided_model.on(fine, weights, request), step, fine.grid[late:]),
                *(keys("refine"), fine.enlarge(x, coarse.box), family),
                progress=_stage(progress, stages, 1),
            )
        image = images.to_uint8(codec.decode(weights.codec, x))
        return _paste_known(image, request)

    per_step = calls_per_step(c.solver)
    network_calls = per_step * (len(fine.grid) - 1) + 1
    if coarse is not None:
        network_calls += per_step * (len(fine.grid) - late - 1) + 1
    return Sampling(
        size=fine.size,
        draw=draw,
        seed=c.seed,
        network_calls=network_calls,
        guidance=c.guidance if guided else 1.0,
        windows=fine.windows,
    )


def _check_conditions(
    net: Network, fine: ImageGeometry, coarse: ImageGeometry | None
) -> None:
    """Raises ValueError for conditions that a way of sampling does not support."""
    names = [v.name for v in net.conditions if v.name in CONDITIONS]
    spatial = [name for name in names if CONDITIONS[name].is_spatial]
    if coarse is not None and spatial:
        raise ValueError(
            f"sample.coarse_size: conditions.{spatial[0]} is a map of one size; use "
            "sample.coarse_size=None"
        )
    if fine.windows is not None and "layout" in names:
        raise ValueError(
            "sample.window: boxes of conditions.layout are those of the full image, "
            "not of a window; use sample.window=None"
        )


def _paste_known(image: jax.Array, request: Request) -> jax.Array:
    """Returns images whose pixels outside the hole are those of the given image."""
    if "inpainting.mask" not in request.fields:
        return image
    known = images.to_uint8(jnp.asarray(request.fields["inpainting.image"]))
    mask = jnp.asarray(request.fields["inpainting.mask"])[..., None]
    return jnp.where(mask > 0.5, image, known)


def _stage(progress: Progress | None, steps: list[int], stage: int) -> Progress | None:
    """Returns the callback of one stage, which counts the steps of all stages."""
    if progress is None:
        return None
    before = sum(steps[:stage])
    return lambda done, _, x_hat: progress(before + done, sum(steps), x_hat)


def build_extra_sizes(
    config: Config, net: Network, mesh: Mesh | None = None
) -> dict[str, Sampling]:
    """Returns samplers of the extra sizes that are sampled at the end of training."""
    sizes = config.sample.also_sizes
    return {size: build_sampling(config, net, size=size, mesh=mesh) for size in sizes}


def _coarse(config: Config, net: Network, fine: ImageGeometry) -> ImageGeometry | None:
    """Returns the geometry of the coarse image; None without one."""
    text = config.sample.coarse_size
    if text is None:
        return None
    steps, key = config.sample.steps, "sample.coarse_size"
    small = build_geometry(config, net, text, steps, key=key)
    if math.prod(small.full_size) >= math.prod(fine.full_size):
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
    """Returns class numbers of "sun,3,house"; None means all classes.

    Args:
      text: names and numbers, separated by commas.
      names: class names, possibly empty.
      count: number of classes; 0 for a model without classes.
      key: config key of the text, for messages.

    Raises:
      ValueError: a class does not exist; the message lists those that do.
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


def build_solver(
    config: Config, name: str, family: process.Family, eta: float
) -> Solver:
    """Returns a solver by name.

    Raises:
      ValueError: the name is unknown.
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
    """Returns the number of network calls per solver step."""
    return 2 if name == "heun" else 1
