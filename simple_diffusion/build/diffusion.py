"""The sections `diffusion` and `loss`: what is minimised, and at which noise levels."""

import math

from simple_diffusion.build.network import Model
from simple_diffusion.build.options import Config, pick
from simple_diffusion.core.types import WeightFn
from simple_diffusion.diffusion import (
    loss,
    process,
    schedules,
    time_laws,
    weighting,
)
from simple_diffusion.training import objectives


def schedule(config: Config, side: int | float) -> schedules.Schedule:
    """Returns the schedule for images of this side in pixels, sqrt(h w) if not square.

    Raises:
      ValueError: for an unknown name.
    """
    s = config.diffusion.schedule
    bounds = s.logsnr_min, s.logsnr_max
    match s.name:
        case "cosine":
            return schedules.cosine(*bounds)
        case "shifted_cosine":
            base = schedules.cosine(*bounds)
            return schedules.shifted(base, s.noise_d, side, s.keep_end_points)
        case "interpolated_cosine":
            base = schedules.cosine(*bounds)
            clean = schedules.shifted(base, s.clean_d, side)
            noisy = schedules.shifted(base, s.noisy_d, side)
            return schedules.interpolated(clean, noisy)
        case "flow":
            shift = 2.0 * math.log(s.noise_d / side) if s.noise_d else 0.0
            return schedules.flow(*bounds, shift)
    raise ValueError(
        f"diffusion.schedule.name={s.name!r} must be one of: "
        "cosine, shifted_cosine, interpolated_cosine, flow"
    )


def weight(config: Config, family: process.Family) -> WeightFn:
    """Returns the loss weighting; it belongs to the schedule of `data.resolution`.

    Raises:
      ValueError: for an unknown name.
    """
    c, side = config.loss, config.data.resolution
    own = schedule(config, side)
    bias = weighting.sigmoid_bias(side) if c.sigmoid_bias is None else c.sigmoid_bias
    table = {
        "eps_mse": weighting.eps_mse(own, family),
        "v_mse": weighting.v_mse(own, family),
        "x_mse": weighting.x_mse(own, family),
        "u_mse": weighting.u_mse(own, family),
        "snr_trunc": weighting.snr_trunc(own),
        "min_snr": weighting.min_snr(own, c.min_snr_gamma),
        "soft_min_snr": weighting.soft_min_snr(own, c.min_snr_gamma),
        "sigmoid": weighting.sigmoid(bias),
        "edm": weighting.edm(c.edm_mean, c.edm_std, c.edm_sigma_data),
    }
    return pick(table, c.weighting, "loss.weighting")


def objective(config: Config, built: Model) -> objectives.DiffusionObjective:
    """Returns what training minimises."""
    c, d = config.loss, config.diffusion
    laws = {
        "uniform": time_laws.uniform(),
        "stratified": time_laws.stratified(),
        "logit_normal": time_laws.logit_normal(d.time_mean, d.time_std),
    }
    multiscale = loss.multiscale_mse(c.multiscale_smallest, c.multiscale_normalise)
    return objectives.DiffusionObjective(
        apply=built.apply,
        schedule=schedule(config, config.data.resolution),
        time_law=pick(laws, d.time_law, "diffusion.time_law"),
        weight=weight(config, built.family),
        loss=multiscale if c.multiscale else loss.mse,
        kind=built.kind,
        family=built.family,
        num_classes=built.num_classes,
        label_drop=c.label_drop,
    )
