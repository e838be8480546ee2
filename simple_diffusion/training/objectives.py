"""The training objective: the weighted error of a denoiser, one number per example.

The network may predict any kind. Its error is measured in the space of its prediction,
against the target computed from x and eps, and then converted to the measure that all
weights refer to (squared error of eps per unit of logsnr, see `core.types.WeightFn`):

    loss_i = |error_i|^2 exp( log w(logsnr)           the weight
                            + log E_eps/E_kind        from the network's kind to eps
                            - log p(logsnr)           how often training visits logsnr:
                            - log p(t) )              schedule, then time

The conversion between kinds is exact for every loss that is quadratic in the error, so
neither the value nor the gradient depends on the kind in which the error is measured,
and the expected loss does not depend on the schedule or the time distribution.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simple_diffusion.core import arrays, images, rng
from simple_diffusion.core.types import (
    PIXELS,
    ApplyFn,
    Batch,
    Codec,
    Condition,
    Conditioning,
    Key,
    LossFn,
    Params,
    WeightFn,
)
from simple_diffusion.diffusion import (
    parameterization,
    process,
    schedules,
    time_distributions,
)


@flax.struct.dataclass
class Draw:
    """All random numbers of one batch, drawn for the full batch at once.

    t: times, [b].
    keys: one key per example, [b]. Noise and label drop of an example depend on its key
      alone, so the split over devices or microbatches changes no number.
    """

    t: Any
    keys: Any


@runtime_checkable
class Objective(Protocol):
    """The objective that `step.make_train_step` minimises."""

    def draw(self, key: Key, batch: Batch) -> Any:
        """Draws all random numbers of the batch: a tree of arrays [b, ...]."""
        ...

    def __call__(
        self, params: Params, batch: Batch, draw: Any, train: bool = True
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        """Returns the loss and {"logsnr": the noise level} of each example."""
        ...


@dataclass(frozen=True)
class DiffusionObjective:
    """The denoising objective of every model here, pixels or latents.

    apply: the network.
    schedule, time_distribution: which noise levels training samples; they do not
      change the expected loss.
    weight: schedule -> the loss weighting as a function of logsnr. It takes the
      schedule of an example, because many weightings are defined by one.
    loss: the quadratic form, such as the mean square or the multiscale loss.
    kind: what the network predicts: "eps", "v", "x" or "u".
    family: how signal and noise are mixed.
    codec, codec_params: from images to the space of the network; never trained here.
    conditions: what the network is conditioned on.
    reference: side in pixels of the images that `schedule` is for. The logsnr of a
      patch of a full image of side R is then lowered by 2 log(R / reference), because
      a patch has the statistics of its full image. None: one schedule for all.
    """

    apply: ApplyFn
    schedule: schedules.Schedule
    time_distribution: time_distributions.TimeDistribution
    weight: Callable[[schedules.Schedule], WeightFn]
    loss: LossFn
    kind: str = "v"
    family: process.Family = process.VP
    codec: Codec = PIXELS
    codec_params: Params = ()
    conditions: tuple[Condition, ...] = ()
    reference: int | float | None = None

    def draw(self, key: Key, batch: Batch) -> Draw:
        """Draws times and keys for a full batch."""
        b = batch.label.shape[0]
        time_key, example_key = jax.random.split(key)
        return Draw(
            t=self.time_distribution.sample(time_key, b),
            keys=rng.derive_example_keys(example_key, jnp.arange(b)),
        )

    def __call__(
        self, params: Params, batch: Batch, draw: Draw, train: bool = True
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        """Returns the loss of each example and the logsnr at which it was measured.

        Args:
          params: of the network.
          batch: images, labels, boxes; the caller applies `mask`.
          draw: the result of `draw`, sliced like the batch.
          train: whether labels and units of the network are dropped.
        """
        x = self.encode(batch)
        keys = jax.vmap(lambda key: jax.random.split(key, 3))(draw.keys)  # [b, 3]
        eps = rng.normal_per_example(keys[:, 0], x.shape[1:])
        schedule = self._schedule(batch)
        logsnr = schedule(draw.t)
        z_t = process.add_noise(self.family, x, eps, logsnr)
        cond = self.condition(batch, keys[:, 1] if train else None)
        # The dropout mask is drawn for the batch at once, from the key of its first
        # example.
        dropout_key = keys[0, 2] if train else None
        output = self.apply(params, z_t, logsnr, cond, dropout_key)
        target = parameterization.target(self.kind, x, eps, logsnr, self.family)
        error = output.astype(jnp.float32) - target
        factor = jnp.exp(self._log_factor(schedule, draw.t, logsnr))
        return self.loss(error) * factor, {"logsnr": logsnr}

    def _schedule(self, batch: Batch) -> schedules.Schedule:
        """Returns the schedule of each example."""
        if self.reference is None:
            return self.schedule
        _, h, w, _ = batch.image.shape
        box = jnp.asarray(batch.box)
        extent = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
        # log (reference / R)^2, where R^2 = h w / extent is the area of the full image.
        shift = jnp.log(extent) + math.log(self.reference**2 / (h * w))
        return schedules.ShiftedSchedule(self.schedule, shift)

    def encode(self, batch: Batch) -> Float[Array, "b h w c"]:
        """Returns x, the images of a batch in the space of the network."""
        image = images.to_unit_range(jnp.asarray(batch.image))
        return self.codec.encode(self.codec_params, image)

    def condition(self, batch: Batch, keys: Key | None = None) -> Conditioning:
        """Returns the conditioning of a batch.

        Args:
          batch: the batch.
          keys: one for each example, by which conditions are dropped; None drops none.
        """
        found = {}
        for condition in self.conditions:
            value = condition.of_batch(batch)
            if keys is not None and condition.null is not None:
                share = condition.drop
                drop = jax.vmap(lambda key, p=share: jax.random.bernoulli(key, p))(keys)
                drop = arrays.expand_dims_like(drop, value)
                value = jnp.where(drop, condition.null(value), value)
            found[condition.field] = value
        return Conditioning(**found)

    def _log_factor(
        self,
        schedule: schedules.Schedule,
        t: Float[Array, "b"],
        logsnr: Float[Array, "b"],
    ) -> Float[Array, "b"]:
        # The exponential of a single term may overflow float32, but the sum is
        # moderate. Hence one sum and one exp.
        return (
            self.weight(schedule)(logsnr)
            + parameterization.log_error_factor(self.kind, logsnr, self.family)
            - schedule.log_density(logsnr)
            - self.time_distribution.log_density(t)
        )
