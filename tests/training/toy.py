"""A network of a hundred parameters and its data, small enough to train in tests."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np

from simple_diffusion.core.types import Batch, Conditioning
from simple_diffusion.training import (
    checkpoint,
    ema,
    loop,
    optimizer,
    report,
    sharding,
    state,
    step,
)

ONE_DEVICE = sharding.make_mesh(devices=jax.devices()[:1])
SIZE = 8
CLASSES = 3
HIDDEN = 16


def init(key):
    rows = 0.3 * jax.random.normal(key, (3 + CLASSES + 1 + 3, HIDDEN))
    return {
        "inner": {"kernel": rows[:3], "bias": jnp.zeros(HIDDEN)},
        "label": {"embedding": rows[3:-3]},
        "outer": {"kernel": rows[-3:].T},
    }


def apply(params, z_t, logsnr, cond, dropout_key=None):
    """Returns a function of each pixel, the noise level and the class."""
    level = jnp.outer(logsnr / 10, jnp.linspace(-1, 1, HIDDEN))
    if cond.label is not None:
        level = level + params["label"]["embedding"][cond.label]
    hidden = jnp.einsum("bhwc,cd->bhwd", z_t, params["inner"]["kernel"])
    bias = params["inner"]["bias"][None] + level
    hidden = jnp.tanh(hidden + bias[:, None, None])
    return jnp.einsum("bhwd,dc->bhwc", hidden, params["outer"]["kernel"])


def batch(number=0, size=8):
    """Returns the batch of one step: images of one colour each, plus a little noise."""
    random = np.random.default_rng(number)
    colour = random.integers(30, 220, (size, 1, 1, 3))
    return Batch(
        image=(colour + random.integers(0, 30, (size, SIZE, SIZE, 3))).astype(np.uint8),
        label=random.integers(0, CLASSES, size).astype(np.int32),
        box=np.tile(np.array([0, 0, 1, 1], np.float32), (size, 1)),
        mask=np.ones(size, bool),
    )


class Regression:
    """Recovers each image's colour from a noisy copy of it.

    What a step needs to know of an objective and no more, so that it compiles fast.
    """

    def draw(self, key, batch):
        return jax.random.normal(key, (batch.label.shape[0], 3))

    def __call__(self, params, batch, draw, train=True):
        colour = jnp.mean(batch.image.astype(jnp.float32), axis=(1, 2)) / 127.5 - 1
        logsnr = 5 * draw[:, 0]
        noisy = (colour + 0.3 * draw)[:, None, None]
        output = apply(params, noisy, logsnr, Conditioning(label=batch.label))
        error = output[:, 0, 0] - colour
        return jnp.mean(jnp.square(error), axis=1), {"logsnr": logsnr}


AVERAGES = {
    "main": ema.Exponential(0.9, warm_up=True),
    "power": ema.PowerFunction(0.1),
}


def adam(rate=1e-2, **changes):
    return optimizer.adam(optimizer.learning_rate(rate, warmup_steps=3), **changes)


# Even the smallest array is split, or a toy would not test sharding.
RULES = ((".*", sharding.fsdp(min_size=0)),)


def blueprint(mesh=None, rules=RULES, **adam_changes):
    mesh = mesh or ONE_DEVICE
    return state.blueprint(init, adam(**adam_changes), AVERAGES, mesh=mesh, rules=rules)


@functools.cache  # the same function again is not compiled again
def train_step(objective=None, accumulate=1, **adam_changes):
    return step.make_train_step(
        objective or Regression(), adam(**adam_changes), AVERAGES, accumulate=accumulate
    )


def batches(mesh, start=0, size=8):
    """Yields the batches from a step on, placed on the devices."""
    placed = sharding.batch_sharding(mesh)
    number = start
    while True:
        yield jax.device_put(batch(number, size), placed)
        number += 1


def train(workdir, total_steps, *, say=print, every=5, save_every=5, **changes):
    """Trains in a workdir; returns the outcome."""
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints")
    reporter = report.Report(
        workdir, total_steps=total_steps, every=every, log=say, tensorboard=False
    )
    settings = dict(
        train_step=train_step(),
        plan=blueprint(ONE_DEVICE),
        open_batches=lambda start: batches(ONE_DEVICE, start),
        mesh=ONE_DEVICE,
        total_steps=total_steps,
        checkpoints=checkpoints,
        save_every=save_every,
        report=reporter,
    )
    with contextlib.closing(checkpoints), contextlib.closing(reporter):
        # NaN checks would switch donation off.
        with jax.debug_nans(False):
            return loop.train(**(settings | changes))
