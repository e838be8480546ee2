"""A trained model as a denoise function: bound, in windows, guided, clipped."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from simple_diffusion.build.image_geometry import Bind, Canvas, check_size
from simple_diffusion.build.network import Model
from simple_diffusion.core.options import Config, pick
from simple_diffusion.core.types import Conditioning, DenoiseFn, Params
from simple_diffusion.diffusion import denoiser
from simple_diffusion.sampling import guidance


@dataclasses.dataclass(frozen=True)
class Denoising:
    """How a denoise function is made of parameters.

    weak: the model to guide by, if not by the null class.
    weight: of the guidance.
    clip: what is done to its estimates.
    """

    built: Model
    weak: Model | None
    weight: guidance.Weight
    clip: Callable[[DenoiseFn], DenoiseFn]

    def check(self, canvas: Canvas) -> None:
        """Raises ValueError if the weaker model cannot divide images of this size."""
        if self.weak is not None:
            key = "sample.guidance_workdir: sample.size"
            check_size(self.weak, canvas.input, key)

    def on(
        self,
        canvas: Canvas,
        params: Params,
        weak_params: Params | None,
        label: jax.Array,
    ) -> DenoiseFn:
        """Returns the denoise function of images of one size.

        Args:
          canvas: their size, and how it is reached.
          params: of the model.
          weak_params: of the weaker model, if there is one.
          label: the class of each image, [b]; the number of classes is none of them.
        """
        built, weak = self.built, self.weak
        cond = Conditioning(label=label if built.num_classes else None)
        if built.knows_place or (weak is not None and weak.knows_place):
            box = jnp.broadcast_to(jnp.array([canvas.box]), (len(label), 4))
            cond = dataclasses.replace(cond, box=box, whole=canvas.told)
        strong = canvas.fuse(_bind(built, params))
        weaker = None if weak is None else canvas.fuse(_bind(weak, weak_params))
        return self.clip(_guided(self.weight, strong, weaker, cond, built.num_classes))


def denoising(
    config: Config,
    built: Model,
    weak: Model | None = None,
    *,
    guided: bool,
    clip: str,
    clip_key: str = "sample.clip",
) -> Denoising:
    """Returns how `config.sample` guides, with estimates clipped in one of three ways.

    Args:
      config: the whole config.
      built: the model.
      weak: the model to guide by, if not by the null class.
      guided: whether there is anything to be guided by.
      clip: static, dynamic or none.
      clip_key: where that comes from, for messages.

    Raises:
      ValueError: for an unknown name, and a weaker model in which z has another scale.
    """
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
    weight = _weight(config.sample) if guided else 1.0
    return Denoising(built, weak, weight, pick(clips, clip, clip_key))


def _weight(c: Config) -> guidance.Weight:
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
