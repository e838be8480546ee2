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


def by_token(kind, num_classes=3):
    config = tiny()
    with config.unlocked():
        config.model = tiny_network(kind)
    config.model.update(class_condition="token", class_token_width=8)
    return network.build_network(config, num_classes)


@pytest.mark.parametrize("kind", ["unet", "uvit", "residual_uvit"])
def test_a_class_may_enter_as_a_token(kind):
    net = by_token(kind)
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    # One more row than there are classes, for "no class".
    assert shapes["conditions"]["class"]["table"].shape == (4, 8)
    names = [jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(shapes)]
    assert any("cross_attention" in name for name in names)
    assert net.num_classes == 3 and net.conditions == ()
    # Without classes there is nothing to enter.
    plain = jax.eval_shape(by_token(kind, 0).init, jax.random.key(0))
    assert "conditions" not in plain


def test_the_token_of_each_class_is_a_value_of_its_own():
    net = by_token("uvit")
    params = net.init(jax.random.key(0))
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    lively = [
        v + 0.2 * jax.random.normal(k, v.shape)
        for v, k in zip(leaves, keys, strict=True)
    ]
    params = jax.tree.unflatten(structure, lively)
    z_t = jnp.repeat(jax.random.normal(jax.random.key(2), (1, *net.size)), 4, 0)
    out = jax.jit(net.apply)(params, z_t, jnp.zeros(4), Conditioning(jnp.arange(4)))
    gaps = jnp.abs(out[:, None] - out[None]).max((2, 3, 4)) + jnp.eye(4)
    assert gaps.min() > 1e-3
