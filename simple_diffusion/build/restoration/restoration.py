"""The section `restore`: from a model to restored images."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from simple_diffusion.build import sampling
from simple_diffusion.build.codec import PIXELS
from simple_diffusion.build.denoising import build_denoising
from simple_diffusion.build.image_geometry import build_geometry
from simple_diffusion.build.network import Network
from simple_diffusion.build.restoration.degradation import (
    Degradation,
    Size,
    parse_degradation,
)
from simple_diffusion.core import rng
from simple_diffusion.core.options import Config, parse_size, pick
from simple_diffusion.core.types import Codec, Params, Progress, Solver, Weights
from simple_diffusion.diffusion.process import Family
from simple_diffusion.restoration import ddnm, latent, null_space, travel
from simple_diffusion.restoration.operators import LinearOperator


@dataclasses.dataclass(frozen=True)
class Plan:
    """Settings of a restoration.

    task, degradation: the degradation, by name and as an operator.
    input, hole_mask, output: as in the config.
    degrade: whether inputs are originals, which are degraded first.
    size: height and width to which inputs are resized; None leaves them as they are.
    samples: restorations per input.
    classes: of the inputs, in turn; the number of classes means no class.
    seed: seed of all random numbers.
    lpips_weights: file of the weights of LPIPS; None without LPIPS.
    """

    task: str
    degradation: Degradation
    input: str
    hole_mask: str | None
    output: str | None
    degrade: bool
    size: Size | None
    samples: int
    classes: list[int]
    seed: int
    lpips_weights: str | None


def read_plan(config: Config, net: Network, class_names: tuple[str, ...]) -> Plan:
    """Returns the settings of `config.restore`.

    Raises:
      ValueError: a number is out of range, a name does not exist, or a required key is
        not set.
    """
    c, degradation = config.restore, parse_degradation(config)
    classes = [net.num_classes]
    if c.classes is not None:
        key = "restore.classes"
        classes = sampling.parse_classes(c.classes, class_names, net.num_classes, key)
    size = None if c.size is None else parse_size(c.size, "restore.size")
    _algorithm(config, net.family)  # raise errors now rather than for each input
    restore_plan = Plan(
        task="+".join(degradation.tasks),
        degradation=degradation,
        input=c.input or "",
        hole_mask=c.hole_mask or None,
        output=c.output,
        degrade=c.degrade,
        size=size,
        samples=c.samples,
        classes=classes,
        seed=config.sample.seed,
        lpips_weights=c.lpips_weights,
    )
    if not restore_plan.input:
        raise ValueError(
            "restore.input must name an image, a folder of images, or held_out:COUNT"
        )
    if restore_plan.hole_mask is not None and not degradation.needs_mask:
        raise ValueError(
            f"restore.hole_mask is for tasks with inpaint, not restore.task={c.task}"
        )
    if degradation.needs_mask and restore_plan.hole_mask is None:
        raise ValueError(
            f"restore.task={c.task} needs restore.hole_mask: an image whose white "
            "pixels are filled, a folder of them, box:HxW or random:SHARE"
        )
    return restore_plan


@dataclasses.dataclass(frozen=True)
class Restoration:
    """The restoration of images of one size, as pure functions of batches.

    Images are [b, h, w, c] in [-1, 1], masks [b, h, w, 1] with 1 where a pixel is
    known, measurements y [b, ...] in the shape of the operator's output.

    size: height and width of the images in pixels.
    measured: shape of one measurement.
    measure: (image, known_mask, seed [b], index [b]) -> y, with noise.
    guess: (y, known_mask) -> A⁺y, the image with the measured content and nothing else.
    restore: (weights, seed, index, label, y, known_mask) -> image. The random numbers
      of an image depend only on its own seed and index.
    residual: (image, y, known_mask) -> [b], the root mean square of A x - y.
    network_calls: per image; a guided call counts once.
    windows: number of windows of an image; None without windows.
    """

    size: Size
    measured: tuple[int, ...]
    measure: Callable[..., jax.Array]
    guess: Callable[..., jax.Array]
    restore: Callable[..., jax.Array]
    residual: Callable[..., jax.Array]
    network_calls: int
    windows: int | None


def build_restoration(
    config: Config,
    net: Network,
    size: Size,
    weak: Network | None = None,
    *,
    mesh: Mesh | None = None,
    codec: Codec = PIXELS,
    progress: Progress | None = None,
) -> Restoration:
    """Returns the restoration of images of one size.

    Args:
      config: the whole config.
      net: the model.
      size: height and width of the restored images in pixels.
      weak: the weaker model for guidance; None guides by the null class.
      mesh: the devices that share windows; None without windows.
      codec: to and from the space of the model.
      progress: called on the host at every move, see `travel.restore`.

    Raises:
      ValueError: a number is out of range, a name is unknown, a size is not divisible,
        or settings contradict each other.
    """
    c = config.restore
    degradation = parse_degradation(config)
    travel_plan, noise, make_solver = _algorithm(config, net.family)
    if codec.factor != 1 and (noise or not degradation.keeps_pixels):
        raise ValueError(
            f"restore.task={c.task}, restore.sigma_y={c.sigma_y}: in the latents of an "
            "autoencoder only inpaint without noise is linear"
        )
    observe, cells = _cells(config, size, degradation, codec)
    geometry = build_geometry(
        config, net, f"{cells[0]}x{cells[1]}", c.steps, mesh=mesh, key="restore.size"
    )
    guided = weak is not None or (net.num_classes > 0 and c.classes is not None)
    guided_model = build_denoising(
        config, net, weak, guided=guided, clip=c.clip, clip_key="restore.clip"
    )
    guided_model.check(geometry)
    # Read the config here: traced functions must not depend on it later.
    channels = net.size[2]

    def measure(
        x: jax.Array, known_mask: jax.Array, seed: jax.Array, index: jax.Array
    ) -> jax.Array:
        y = degradation.operator(size, known_mask).forward(x)
        if not noise:
            return y
        keys = jax.vmap(lambda s, k: rng.derive_example_key(s, "measurement", k))(
            seed, index
        )
        y = y + noise * rng.normal_per_example(keys, y.shape[1:])
        return y * known_mask if degradation.keeps_pixels else y

    def restore(
        weights: Weights,
        seed: jax.Array,
        index: jax.Array,
        label: jax.Array,
        y: jax.Array,
        known_mask: jax.Array,
    ) -> jax.Array:
        operator, target = observe(weights.codec, y, known_mask)
        keys = jax.vmap(lambda s, k: rng.derive_example_key(s, "restore", k))(
            seed, index
        )

        def finish(x_hat: jax.Array) -> jax.Array:
            # At the last noise level the projection weight of DDNM+ is 0.
            return x_hat if noise else null_space.project(operator, x_hat, target)

        x = travel.restore(
            guided_model.on(geometry, weights, label),
            make_solver(operator, target),
            finish,
            geometry.grid,
            keys,
            (*geometry.size, channels),
            net.family,
            travel_plan,
            progress,
        )
        x = codec.decode(weights.codec, x)
        keeps = degradation.keeps_pixels and not noise
        return latent.paste(x, y, known_mask) if keeps else x

    def guess(y: jax.Array, known_mask: jax.Array) -> jax.Array:
        return degradation.operator(size, known_mask).pinv(y)

    def residual(x: jax.Array, y: jax.Array, known_mask: jax.Array) -> jax.Array:
        error = degradation.operator(size, known_mask).forward(x) - y
        return jnp.sqrt(jnp.square(error).reshape(len(error), -1).mean(axis=1))

    example = jnp.zeros((1, *size, 3 if codec.factor != 1 else channels))
    mask = jnp.ones((1, *size, 1))
    zero = jnp.zeros(1, jnp.int32)
    y = jax.eval_shape(measure, example, mask, zero, zero)
    per_step = sampling.calls_per_step(c.solver)
    return Restoration(
        size=size,
        measured=y.shape[1:],
        measure=measure,
        guess=guess,
        restore=restore,
        residual=residual,
        network_calls=per_step * (travel.network_calls(c.steps, travel_plan) - 1) + 1,
        windows=geometry.windows,
    )


def _algorithm(
    config: Config, family: Family
) -> tuple[travel.Travel, float, Callable[[LinearOperator, jax.Array], Solver]]:
    """Returns the time travel, the noise in y, and (operator, y) -> solver.

    Raises:
      ValueError: a number is out of range, or settings contradict each other.
    """
    c = config.restore
    if c.task == "denoise" and not c.sigma_y:
        raise ValueError("restore.task=denoise needs restore.sigma_y > 0")
    travel_plan = travel.Travel(
        c.travel_length, c.travel_repeat, c.travel_from_estimate
    )
    travel.network_calls(c.steps, travel_plan)  # raises for bad numbers
    noise = 2.0 * c.sigma_y  # images are in [-1, 1] here
    return travel_plan, noise, _solver(config, family, noise)


def _solver(
    config: Config, family: Family, sigma_y: float
) -> Callable[[LinearOperator, jax.Array], Solver]:
    """Returns (operator, y) -> solver."""
    c = config.restore
    kinds = {"constant": False, "ddim": True}
    as_ddim = pick(kinds, c.fresh, "restore.fresh")
    eta = c.eta

    def exact(operator: LinearOperator, y: jax.Array) -> Solver:
        if sigma_y:
            return ddnm.ddnm_plus(operator, y, sigma_y, family, eta)
        return ddnm.ddnm(operator, y, family, eta, as_ddim=as_ddim)

    def simplified(operator: LinearOperator, y: jax.Array) -> Solver:
        return ddnm.ddnm_simplified(operator, y, sigma_y, family, eta)

    def projected(name: str) -> Callable[[LinearOperator, jax.Array], Solver]:
        solver = sampling.build_solver(config, name, family, eta)
        return functools.partial(null_space.project_solver, solver)

    if as_ddim and (sigma_y or c.solver != "ddnm"):
        raise ValueError(
            "restore.fresh=ddim is for restore.solver=ddnm with restore.sigma_y=0"
        )
    noise_aware = {"ddnm": exact, "ddnm_simplified": simplified}
    table = noise_aware | {name: projected(name) for name in sampling.SOLVERS}
    make_solver = pick(table, c.solver, "restore.solver")
    if sigma_y and c.solver not in noise_aware:
        raise ValueError(
            f"restore.sigma_y={c.sigma_y} needs restore.solver=ddnm: {c.solver} "
            "assumes an exact measurement"
        )
    return make_solver


def _cells(
    config: Config, size: Size, degradation: Degradation, codec: Codec
) -> tuple[Callable[..., tuple[LinearOperator, jax.Array]], Size]:
    """Returns the observation in the space of the model, and the size in that space.

    The observation is (codec params, y, known_mask) -> (operator, target).
    """
    c, factor = config.restore, codec.factor
    usual = (0, 0) if factor == 1 else (2, 2)
    grow = usual if c.dilate is None else c.dilate
    if c.dilate is not None and not degradation.keeps_pixels:
        raise ValueError(f"restore.dilate is for restore.task=inpaint, not {c.task}")
    if len(grow) != 2:
        raise ValueError(
            f"restore.dilate={tuple(grow)} must be two numbers of cells, "
            "towards smaller and towards larger indices"
        )
    known_cells = functools.partial(
        latent.known_cells,
        factor=factor,
        mode=c.mask_mode,
        dilate_low=grow[0],
        dilate_high=grow[1],
    )

    def observe(
        codec_params: Params, y: jax.Array, known_mask: jax.Array
    ) -> tuple[LinearOperator, jax.Array]:
        if degradation.keeps_pixels:
            known = known_cells(known_mask)
            # The encoder gets a black hole, as in the authors' method.
            black = jnp.where(known_mask > 0, y, -1.0)
            cells = codec.encode(codec_params, y if factor == 1 else black)
            h, w = known.shape[1:3]
            return degradation.operator((h, w), known), cells * known
        return degradation.operator(size, known_mask), y

    jax.eval_shape(known_cells, jax.ShapeDtypeStruct((1, *size, 1), jnp.float32))
    return observe, (size[0] // factor, size[1] // factor)
