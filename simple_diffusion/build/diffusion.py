"""The sections `diffusion` and `loss`: the training objective and its noise levels."""

import functools
import math
from collections.abc import Callable

from simple_diffusion.build import codec as codecs
from simple_diffusion.build import conditions
from simple_diffusion.build.conditioning import field_conditions
from simple_diffusion.build.network import Network
from simple_diffusion.core.options import Config, pick, training_size
from simple_diffusion.core.types import WeightFn
from simple_diffusion.diffusion import (
    discrete,
    loss,
    process,
    schedules,
    time_distributions,
    weighting,
)
from simple_diffusion.training import objectives


def reference_size(config: Config) -> tuple[int, int]:
    """Returns height and width of the images that the schedule is defined for."""
    patches = config.data.patches
    if patches is None:
        return training_size(config)
    return patches.smallest, patches.smallest


def reference_side(config: Config) -> int | float:
    """Returns the side in pixels of those images, sqrt(h w) if they are not square."""
    height, width = reference_size(config)
    return height if height == width else math.sqrt(height * width)


def build_schedule(
    config: Config, side: int | float | None = None
) -> schedules.Schedule:
    """Returns the schedule for images of this side in pixels, sqrt(h w) if not square.

    With `diffusion.shift_by_resolution`, a side other than `reference` shifts the
    schedule: 2x2 averaging divides the variance of white noise by four.

    Raises:
      ValueError: the name is unknown.
    """
    unshifted = _schedule(config, reference_side(config))
    if side is None or not config.diffusion.shift_by_resolution:
        return unshifted
    shift = 2.0 * math.log(reference_side(config) / side)
    return schedules.ShiftedSchedule(unshifted, shift) if shift else unshifted


def _schedule(config: Config, side: int | float) -> schedules.Schedule:
    s = config.diffusion.schedule
    if s.name == "discrete":
        kinds = {kind: kind for kind in ("linear", "scaled_linear")}
        betas = pick(kinds, s.betas, "diffusion.schedule.betas")
        try:
            return discrete.from_betas(s.first, s.last, s.steps, betas)
        except ValueError as error:
            raise ValueError(f"diffusion.schedule: {error}") from None
    bounds = s.logsnr_min, s.logsnr_max
    match s.name:
        case "cosine":
            return schedules.cosine(*bounds)
        case "shifted_cosine":
            base = schedules.cosine(*bounds)
            return schedules.shift_schedule(base, s.noise_d, side, s.keep_end_points)
        case "interpolated_cosine":
            base = schedules.cosine(*bounds)
            clean = schedules.shift_schedule(base, s.clean_d, side)
            noisy = schedules.shift_schedule(base, s.noisy_d, side)
            return schedules.interpolate_schedules(clean, noisy)
        case "flow":
            shift = 2.0 * math.log(s.noise_d / side) if s.noise_d else 0.0
            return schedules.flow(*bounds, shift)
    raise ValueError(
        f"diffusion.schedule.name={s.name!r} must be one of: "
        "cosine, shifted_cosine, interpolated_cosine, flow, discrete"
    )


def build_weighting(
    config: Config, family: process.Family
) -> Callable[[schedules.Schedule], WeightFn]:
    """Returns a function from the schedule to the loss weighting.

    Raises:
      ValueError: the name is unknown.
    """
    c, gamma = config.loss, config.loss.min_snr_gamma
    bias = c.sigmoid_bias
    if bias is None:
        bias = weighting.sigmoid_bias(reference_side(config))
    edm = weighting.edm(c.edm_mean, c.edm_std, c.edm_sigma_data)
    table = {
        "eps_mse": functools.partial(weighting.eps_mse, family=family),
        "v_mse": functools.partial(weighting.v_mse, family=family),
        "x_mse": functools.partial(weighting.x_mse, family=family),
        "u_mse": functools.partial(weighting.u_mse, family=family),
        "snr_trunc": weighting.snr_trunc,
        "min_snr": functools.partial(
            weighting.min_snr, gamma=gamma, floor=c.min_snr_floor
        ),
        "soft_min_snr": functools.partial(weighting.soft_min_snr, gamma=gamma),
        "sigmoid": lambda _: weighting.sigmoid(bias),
        "edm": lambda _: edm,
        "logit_normal": functools.partial(
            weighting.logit_normal,
            mean=c.logit_normal_mean,
            std=c.logit_normal_std,
        ),
    }
    return pick(table, c.weighting, "loss.weighting")


def build_objective(config: Config, net: Network) -> objectives.DiffusionObjective:
    """Returns the training objective."""
    c, d = config.loss, config.diffusion
    distributions = {
        "uniform": time_distributions.uniform(),
        "stratified": time_distributions.stratified(),
        "logit_normal": time_distributions.logit_normal(d.time_mean, d.time_std),
    }
    # Without patches all images have the reference side, and the shift is 0.
    shifts = d.shift_by_resolution and config.data.patches is not None
    codec, codec_params = codecs.build_codec(config)
    multiscale = loss.multiscale_mse(c.multiscale_smallest, c.multiscale_normalise)
    return objectives.DiffusionObjective(
        apply=net.apply,
        schedule=build_schedule(config),
        time_distribution=pick(distributions, d.time_law, "diffusion.time_law"),
        weight=build_weighting(config, net.family),
        loss=multiscale if c.multiscale else loss.mse,
        kind=net.kind,
        family=net.family,
        codec=codec,
        codec_params=codec_params,
        conditions=conditions.build_conditions(config, net.num_classes),
        field_conditions=field_conditions.build_field_conditions(config),
        drop_all=config.conditions.drop_all,
        reference=reference_side(config) if shifts else None,
    )
