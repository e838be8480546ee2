"""A trained model as a denoise function: conditioned, windowed, guided, clipped."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

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


class Step(NamedTuple):
    """Conditions that guidance adds together: their names and their weight."""

    names: tuple[str, ...]
    weight: guidance.Weight


@dataclasses.dataclass(frozen=True)
class Denoising:
    """How parameters become a denoise function.

    net: the model.
    weak: the weaker model for guidance; None guides by the null class.
    weight: guidance weight by a weaker model.
    steps: guidance weight by conditions, in the order in which they are added.
    removed: conditions of weight 0.
    clip: how estimates are clipped.
    """

    net: Network
    weak: Network | None
    weight: guidance.Weight
    steps: tuple[Step, ...]
    removed: frozenset[str]
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
        if weak is not None:
            weaker = geometry.fuse(_bind(weak, weights.weak))
            guided = guidance.guide(strong(cond), weaker(cond), self.weight)
        else:
            guided = self._compose(strong, cond)
        return self.clip(guided)

    def _compose(self, bind: Bind, cond: Conditioning) -> DenoiseFn:
        """Returns guidance by conditions, which are added step by step."""
        nothing = self.net.num_classes
        conds = [
            conditions.drop(cond, self.removed | _names(self.steps[k:]), nothing)
            for k in range(len(self.steps) + 1)
        ]
        if not self.steps:
            return bind(conds[0])
        return guidance.compose(bind, conds, [step.weight for step in self.steps])


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
    c = config.sample
    weight = _limit(c, c.guidance) if guided else 1.0
    steps, removed = _read_steps(c, net, weak) if guided else ((), frozenset())
    return Denoising(net, weak, weight, steps, removed, pick(clips, clip, clip_key))


def _read_steps(
    c: Config, net: Network, weak: Network | None
) -> tuple[tuple[Step, ...], frozenset[str]]:
    """Returns the steps of guidance by conditions, and the conditions to remove.

    Conditions of the same weight that follow each other are one step. Steps of weight 1
    before all others need no estimate without them.

    Raises:
      ValueError: a weight is for a condition that the model does not have, or the model
        is guided by a weaker one.
    """
    names = (["classes"] if net.num_classes else []) + [v.name for v in net.conditions]
    own = {name: w for name, w in c.guidance_of.items() if w is not None}
    unknown = sorted(own.keys() - {*names})
    if unknown:
        raise ValueError(
            f"sample.guidance_of.{unknown[0]}={own[unknown[0]]:g}: this model has "
            f"no such condition; it has {', '.join(names) or 'none'}"
        )
    if own and weak is not None:
        raise ValueError(
            "sample.guidance_of has weights for single conditions, and "
            "sample.guidance_workdir guides by a weaker model: use one of them"
        )
    weights = {name: own.get(name, c.guidance) for name in names}
    removed = frozenset(name for name in names if weights[name] == 0)
    if len(removed) == len(names):
        removed = frozenset[str]()  # one step of weight 0 is the same
    steps: list[Step] = []
    for name in (name for name in names if name not in removed):
        before = steps.pop() if steps and steps[-1].weight == weights[name] else None
        steps.append(Step((*(before.names if before else ()), name), weights[name]))
    while steps and steps[0].weight == 1.0:
        steps.pop(0)
    limited = (Step(s.names, _limit(c, weights[s.names[0]])) for s in steps)
    return tuple(limited), removed


def _limit(c: Config, weight: float) -> guidance.Weight:
    """Returns the weight within the interval of noise levels, and 1 outside it."""
    low = -math.inf if c.guidance_low is None else c.guidance_low
    high = math.inf if c.guidance_high is None else c.guidance_high
    if low == -math.inf and high == math.inf:
        return weight
    return guidance.interval(weight, low, high)


def _names(steps: Sequence[Step]) -> frozenset[str]:
    return frozenset(name for step in steps for name in step.names)


def _bind(net: Network, params: Params | None) -> Bind:
    def bind(cond: Conditioning) -> DenoiseFn:
        return denoiser.denoise_fn(net.apply, params, net.kind, cond, net.family)

    return bind
