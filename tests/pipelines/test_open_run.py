import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

import simple_diffusion
from simple_diffusion.build.network import Network
from simple_diffusion.configs import base
from simple_diffusion.diffusion import process
from simple_diffusion.pipelines import open_run, runs
from simple_diffusion.pipelines.model import Model
from simple_diffusion.training import checkpoint, ema, sharding, state
from tests.training import toy

NETWORK = Network(
    toy.apply, toy.init, (toy.SIZE, toy.SIZE, 3), toy.CLASSES, "v", process.VP, False
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Returns a workdir with one checkpoint, and the state in it."""
    folder = epath.Path(tmp_path_factory.mktemp("run"))
    averages = {"main": ema.Exponential(0.9), "power_0.1": ema.PowerFunction(0.1)}
    plan = state.blueprint(toy.init, toy.adam(), averages, mesh=toy.ONE_DEVICE)
    made = plan.create()
    shifted = {
        name: jax.tree.map(lambda v, k=k: v + k, made.params)
        for k, name in enumerate(averages, 1)
    }
    saved = made.replace(step=jnp.int32(7), ema=shifted)
    checkpoints = checkpoint.Checkpoints(folder / open_run.CHECKPOINTS)
    with contextlib.closing(checkpoints):
        checkpoints.save(7, saved)
    return folder, saved


def test_arguments_of_load_are_the_keys_of_their_names(tmp_path, monkeypatch):
    folder = epath.Path(tmp_path)
    runs.save_config(base.default(), folder, ())

    def remember(config, text):
        model = Model.__new__(Model)
        model.config = config
        return model

    monkeypatch.setattr(open_run, "open_run", remember)
    keys = {"weights": "params", "guidance_workdir": "w", "guidance_step": 2}
    found = simple_diffusion.load(folder, step=4, **keys).config.sample
    assert found.checkpoint_step == 4 and not found.best_checkpoint
    assert {key: found[key] for key in keys} == keys
    assert simple_diffusion.load(folder, best=True).config.sample.best_checkpoint


@pytest.mark.parametrize("name", ["ema", "params", "power_0.1"])
def test_each_name_of_weights_loads_the_weights_of_that_name(run, name):
    folder, saved = run
    by_name = {"params": saved.params, "ema": saved.ema["main"]}
    expected = by_name | {"power_0.1": saved.ema["power_0.1"]}
    step, found = open_run.load_named(folder, NETWORK, sharding.make_mesh(), name)
    assert step == 7
    jax.tree.map(np.testing.assert_array_equal, found, expected[name])


@pytest.mark.parametrize(
    "name, says",
    [
        ("foo", "sample.weights='foo': it must be ema, params or power_LENGTH"),
        ("power_x", "sample.weights='power_x': could not convert"),
        (
            "power_0.2",
            r"sample.weights=power_0.2: .*\(ema.power\).*no folder.*ema and",
        ),
    ],
)
def test_weights_that_there_are_not_name_the_key(run, name, says):
    with pytest.raises(ValueError, match=says):
        open_run.load_named(run[0], NETWORK, sharding.make_mesh(), name)


def test_a_weaker_model_that_there_is_not_names_its_keys(run, tmp_path, monkeypatch):
    config, mesh = base.default(), sharding.make_mesh()
    config.sample.update(guidance_workdir="/missing", guidance_step=3)
    with pytest.raises(ValueError, match="guidance_workdir=/missing.*no trained model"):
        open_run.load_weak(config, 0, mesh)
    # It was trained, but there is no such step.
    monkeypatch.setattr(open_run.runs, "load_config", lambda folder: config)
    monkeypatch.setattr(open_run.network, "build_network", lambda *_: NETWORK)
    config.sample.guidance_workdir = str(run[0])
    with pytest.raises(ValueError, match="guidance_workdir=.*sample.guidance_step=3: "):
        open_run.load_weak(config, 0, mesh)
