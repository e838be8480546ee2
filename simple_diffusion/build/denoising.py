"""A trained model as a denoise function: conditioned, windowed, guided, clipped."""

import dataclasses
import math
from collections.abc import Callable

import jax.numpy as jnp

from simple_diffusion.build import conditions
from simple_diffusion.build.conditioning import field_conditions
from simple_diffusion.build.image_geometry import Bind, ImageGeometry, check_size
from simple_diffusion.build.network import Network
from simple_diffusion.core.options import Config, pick
from simple_diffusion.core.types import (
    Conditioning,
    DenoiseFn,
    Params,
    Request,
    Weights,
)
from simple_diffusion.diffusion import denoiser
from simple_diffusion.sampling import guidance


@dataclasses.dataclass(frozen=True)
class Denoising:
    """How parameters become a denoise function.

    net: the model.
    weak: the weaker model for guidance; None guides by the null class.
    weight: guidance weight.
    clip: how estimates are clipped.
    """

    net: Network
    weak: Network | None
    weight: guidance.Weight
    clip: Callable[[DenoiseFn], DenoiseFn]

    def check(self, geometry: ImageGeometry) -> None:
        """Raises ValueError if the weaker model does not support this size."""
        if self.weak is not None:
            key = "sample.guidance_workdir: sample.size"
            check_size(self.weak, geometry.input, key)

    def on(
        self,
        geometry: ImageGeometry,
        weights: Weights,
        request: Request,
    ) -> DenoiseFn:
        """Returns the denoise function for images of one size.

        Args:
          geometry: the size, its noise levels and its windows.
          weights: of the model, and of the weaker model if there is one.
          request: what each image is to show. Conditions that it does not have are
            dropped.
        """
        net, weak = self.net, self.weak
        label = jnp.asarray(request.label)
        fields, dropped = field_conditions.complete(
            net.conditions, request.fields, len(label), geometry.input
        )
        cond = Conditioning(
            label=label if net.num_classes else None, fields=fields, dropped=dropped
        )
        if net.knows_place or (weak is not None and weak.knows_place):
            box = jnp.broadcast_to(jnp.array([geometry.box]), (len(label), 4))
            cond = dataclasses.replace(cond, box=box, full_size=geometry.network_size)
        strong = geometry.fuse(_bind(net, weights.network))
        weaker = None if weak is None else geometry.fuse(_bind(weak, weights.weak))
        return self.clip(_guided(self.weight, strong, weaker, cond, net))


def build_denoising(
    config: Config,
    net: Network,
    weak: Network | None = None,
    *,
    guided: bool,
    clip: str,
    clip_key: str = "sample.clip",
) -> Denoising:
    """Returns the guidance of `config.sample`, with one of three ways of clipping.

    Args:
      config: the whole config.
      net: the model.
      weak: the weaker model for guidance; None guides by the null class.
      guided: whether guidance is possible: there are conditions or a weaker model.
      clip: static, dynamic or none.
      clip_key: config key of `clip`, for messages.

    Raises:
      ValueError: an unknown name, or a weaker model in which z has another scale.
    """
    if weak is not None and weak.family != net.family:
        raise ValueError(
            f"sample.guidance_workdir: the weaker model has diffusion.family="
            f"{weak.family.name}, this one {net.family.name}"
        )
    clips = {
        "static": guidance.clip_static,
        "dynamic": guidance.clip_dynamic,
        "none": lambda denoise: denoise,
    }
    weight = _weight(config.sample) if guided else 1.0
    return Denoising(net, weak, weight, pick(clips, clip, clip_key))


def _weight(c: Config) -> guidance.Weight:
    low = -math.inf if c.guidance_low is None else c.guidance_low
    high = math.inf if c.guidance_high is None else c.guidance_high
    if low == -math.inf and high == math.inf:
        return c.guidance
    return guidance.interval(c.guidance, low, high)


def _bind(net: Network, params: Params | None) -> Bind:
    def bind(cond: Conditioning) -> DenoiseFn:
        return denoiser.denoise_fn(net.apply, params, net.kind, cond, net.family)

    return bind


def _guided(
    weight: guidance.Weight,
    strong: Bind,
    weak: Bind | None,
    cond: Conditioning,
    net: Network,
) -> DenoiseFn:
    if weak is not None:
        return guidance.guide(strong(cond), weak(cond), weight)
    if not net.is_conditional:
        return strong(cond)
    # Drop all conditions that have a null together.
    null = conditions.replace_by_null(
        (conditions.condition_on_class(net.num_classes),), cond
    )
    return guidance.classifier_free(strong, cond, null, weight)
