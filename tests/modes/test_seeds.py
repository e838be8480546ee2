"""What `train.seed` and the average of the parameters do, in the wiring of a training.

`train.run` builds everything, with a network of one layer in place of the config's; a
spy in place of the loop takes a few steps itself. The network learns nothing, but all
other parts are those of a run.
"""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.build import network as networks
from simple_diffusion.build import training
from simple_diffusion.core.types import Weights
from simple_diffusion.modes import train
from simple_diffusion.pipelines import programs, training_grids
from simple_diffusion.training import loop
from tests.faults import tiny

STEPS = 2
real_network, real_mesh = networks.build_network, training.build_mesh


def linear_network(config, num_classes):
    """Returns a network of the kind of the config with one parameter per channel."""
    found = real_network(config, num_classes)

    def init(key):
        return {"kernel": jax.random.normal(key, (3, 3))}

    def apply(params, z_t, logsnr, cond, dropout_key=None):
        return jnp.einsum("bhwc,cd->bhwd", z_t, params["kernel"])

    return dataclasses.replace(found, init=init, apply=apply)


def one_device_mesh(config):
    return real_mesh(config, jax.devices()[:1])


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Returns what a run of a seed gives to the loop, and what it draws."""

    @functools.cache
    def build(seed, attempt=0):
        config = tiny.get_config()
        config.mesh.data = 1
        config.train.update(seed=seed, sample_every_steps=1)
        config.sample.update(count=4, batch_size=4)
        found = SimpleNamespace(drawn=[])

        def take_loop(train_step, blueprint, open_batches, **settings):
            found.train_step, found.blueprint = train_step, blueprint
            found.actions = settings["actions"]
            batches = open_batches(0)
            found.batches = [jax.device_get(next(batches)) for _ in range(STEPS)]
            batches.close()
            return loop.Outcome(None, loop.STOPPED)

        class SpyDrawer(programs.Drawer):
            def __call__(self, weights, request, start=0):
                found.drawn.append(weights)
                yield np.zeros((len(request.label), 16, 16, 3), np.uint8)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(networks, "build_network", linear_network)
            patch.setattr(loop, "train", take_loop)
            drawer = SpyDrawer(programs.Program(4, None), seed=0)
            patch.setattr(training_grids, "make_drawer", lambda *args: drawer)
            patch.setattr(training, "build_mesh", one_device_mesh)
            train.run(config, str(tmp_path_factory.mktemp("run")))
        found.initial = jax.device_get(found.blueprint.create())
        found.take = jax.jit(found.train_step)
        return found

    return build


def test_runs_of_two_seeds_read_other_data(build):
    first, other = build(0).batches, build(1).batches
    for one, two in zip(first, other, strict=True):
        assert not np.array_equal(one.image, two.image)


def test_runs_of_two_seeds_begin_with_other_parameters(build):
    first, other = (build(seed).initial.params["kernel"] for seed in (0, 1))
    assert not np.isclose(first, other).any()


def test_runs_of_two_seeds_draw_other_noise(build):
    """On the same state and batch, where nothing but random numbers can differ."""
    state, batch = build(0).initial, build(0).batches[0]
    losses = [float(build(seed).take(state, batch)[1]["loss"]) for seed in (0, 1)]
    assert losses[0] != pytest.approx(losses[1], rel=1e-4)


def run_to_the_end(found):
    state = found.initial
    for batch in found.batches:
        state, metrics = found.take(state, batch)
        assert metrics["finite"]
    return jax.device_get(state)


def test_runs_of_two_seeds_end_with_other_parameters_and_of_one_with_the_same(build):
    first, again, other = (
        run_to_the_end(found) for found in (build(0), build(0, attempt=1), build(1))
    )
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert int(first.step) == STEPS
    moved = first.params["kernel"] - build(0).initial.params["kernel"]
    assert np.abs(moved).max() > 1e-5
    assert not np.isclose(first.params["kernel"], other.params["kernel"]).any()


def test_the_same_seed_reads_the_same_data(build):
    first, again = build(0).batches, build(0, attempt=1).batches
    for one, two in zip(first, again, strict=True):
        for field in ("image", "label", "box", "mask"):
            np.testing.assert_array_equal(getattr(one, field), getattr(two, field))


def test_the_grids_of_a_training_are_drawn_from_the_average(build):
    found = build(0)
    found.drawn.clear()
    average = {"kernel": found.initial.params["kernel"] + 1}
    state = found.initial.replace(ema={"main": average})
    (show,) = found.actions
    assert show.every == 1
    for step in (1, 40):  # on the way and at the end
        show.run(step, state)
    assert len(found.drawn) == 2
    for weights in found.drawn:
        assert isinstance(weights, Weights)
        np.testing.assert_array_equal(weights.network["kernel"], average["kernel"])
