"""The command line with a fault built in: `python -m tests.faults.run FAULT FLAGS...`.

FAULT is one of

none: no fault.
nan:N: the loss of step N is not a number.
stall:N:S: the batch of step N comes S seconds late.
limit:N: from the third save on no file may grow beyond N bytes, as on a full disk.
"""

import resource
import sys
import time

import jax
import jax.numpy as jnp

from simple_diffusion import main
from simple_diffusion.core import rng
from simple_diffusion.data import pipeline
from simple_diffusion.training import checkpoint, step


class Poisoned:
    """An objective whose losses are NaN in one step."""

    def __init__(self, inner, seed, number):
        self._inner = inner
        # The key of a step says which one it is; steps are counted from 0 there.
        self._key = jax.random.key_data(rng.derive_key(seed, number - 1, "objective"))

    def draw(self, key, batch):
        found = jnp.all(jax.random.key_data(key) == self._key)
        return self._inner.draw(key, batch), found

    def __call__(self, params, batch, draw, train=True):
        inner, found = draw
        losses, aux = self._inner(params, batch, inner)
        return jnp.where(found, jnp.nan, 1.0) * losses, aux


def poison(number):
    make = step.make_train_step

    def poisoned(objective, *args, seed=0, **options):
        return make(Poisoned(objective, seed, number), *args, seed=seed, **options)

    step.make_train_step = poisoned


def stall(number, seconds):
    honest = pipeline.train_batches

    def late(*args, start_step, **options):
        batches = honest(*args, start_step=start_step, **options)
        for k, batch in enumerate(batches, start_step + 1):
            if k == number:
                time.sleep(seconds)
            yield batch

    pipeline.train_batches = late


def limit(size):
    honest = checkpoint.Checkpoints.save
    saves = []

    def save(self, step, state):
        saves.append(step)
        if len(saves) == 3:
            self.wait()
            # Python ignores SIGXFSZ: a write beyond the limit is an error like others.
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        honest(self, step, state)

    checkpoint.Checkpoints.save = save


def break_(fault):
    name, *numbers = fault.split(":")
    faults = {"none": lambda: None, "nan": poison, "stall": stall, "limit": limit}
    faults[name](*map(int, numbers))


if __name__ == "__main__":
    break_(sys.argv.pop(1))
    main.run()
