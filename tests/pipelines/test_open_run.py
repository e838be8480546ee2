import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from simple_diffusion.build.network import Network
from simple_diffusion.diffusion import process
from simple_diffusion.pipelines import open_run
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


@pytest.mark.parametrize("name", ["ema", "params", "power_0.1"])
def test_each_name_of_weights_loads_the_weights_of_that_name(run, name):
    folder, saved = run
    by_name = {"params": saved.params, "ema": saved.ema["main"]}
    expected = by_name | {"power_0.1": saved.ema["power_0.1"]}
    step, found = open_run.load_named(folder, NETWORK, sharding.make_mesh(), name)
    assert step == 7
    jax.tree.map(np.testing.assert_array_equal, found, expected[name])
