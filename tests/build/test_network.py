"""Networks with further conditions than the class, from configs."""

import jax
import jax.numpy as jnp
import pytest

from simple_diffusion.build import network
from simple_diffusion.core.types import Conditioning
from simple_diffusion.nets.conditioning import specs
from tests.build.every_key import tiny, tiny_network

CONDITIONS = (
    specs.TextFeatures(features=5, length=4, width=8),
    specs.LowResolution(sinusoid_channels=8),
)


@pytest.mark.parametrize("kind", ["unet", "uvit", "residual_uvit"])
def test_a_network_is_initialised_and_called_with_its_conditions(kind):
    config = tiny()
    with config.unlocked():
        config.model = tiny_network(kind)
    net = network.build_network(config, 3, CONDITIONS)
    params = jax.eval_shape(net.init, jax.random.key(0))
    names = [jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(params)]
    assert any("cross_attention" in name for name in names)
    assert {"text", "low_resolution"} == params["conditions"].keys()
    z_t = jnp.zeros((2, *net.size))
    fields = specs.examples(net.conditions, 2, net.size[:2])
    cond = Conditioning(label=jnp.zeros(2, int), fields=fields)
    out = jax.eval_shape(net.apply, params, z_t, jnp.zeros(2), cond)
    assert out.shape == z_t.shape
    plain = network.build_network(config, 3)
    assert plain.conditions == ()
    without = jax.eval_shape(plain.init, jax.random.key(0))
    assert "conditions" not in without and len(jax.tree.leaves(without)) < len(names)


def test_conditions_that_do_not_go_together_are_an_error():
    conditions = (*CONDITIONS, specs.ClassToken(3, width=16))
    with pytest.raises(ValueError, match="same width, got {'text': 8, 'class': 16}"):
        network.build_network(tiny(), 3, conditions)
