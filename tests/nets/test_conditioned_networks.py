"""Invariants of every network with conditions at all of its ports."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from simple_diffusion.core.types import Conditioning
from simple_diffusion.nets.conditioning import specs
from simple_diffusion.nets.conditioning.specs import Fields
from tests.nets import small

BATCH = 2
SPECS = (
    specs.Layout(classes=3, objects=3, width=8, bands=2),
    specs.SemanticMap(classes=4),
    specs.Vector(features=4),
)
EXPECTED = {"layout", "semantic", "vector"}
Z_T, LOGSNR, LABELS = small.inputs(BATCH)
DROP_FIRST = {name: jnp.asarray([True, False]) for name in EXPECTED}

each_network = pytest.mark.parametrize("name", tuple(small.NETWORKS))
# For what needs the gradient: the U-ViT has blocks of both kinds.
each_gradient = pytest.mark.parametrize(
    "name",
    [
        "uvit",
        pytest.param("unet", marks=pytest.mark.slow),
        pytest.param("residual_uvit", marks=pytest.mark.slow),
    ],
)


def fields(seed: int) -> Fields:
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(size=(BATCH, 3, 2, 2)), axis=2)
    present = np.ones((BATCH, 3), bool)
    present[1, 2] = False
    size = (BATCH, small.SIZE, small.SIZE)
    return {
        "layout.boxes": jnp.asarray(corners.reshape(BATCH, 3, 4), jnp.float32),
        "layout.category": jnp.asarray(rng.permuted([[0, 1, 2]] * BATCH, axis=1)),
        "layout.present": jnp.asarray(present),
        "semantic": jnp.asarray(rng.integers(0, 4, size)),
        "vector": jnp.asarray(rng.normal(size=(BATCH, 4)), jnp.float32),
    }


FIELDS, OTHER = fields(0), fields(1)


def conditioned(values: Fields, dropped: Any = None) -> Conditioning:
    none = {name: jnp.zeros(BATCH, bool) for name in EXPECTED}
    return dataclasses.replace(LABELS, fields=values, dropped=dropped or none)


def of_condition(name: str) -> Fields:
    """Returns the fields with the value of one condition changed."""
    changed = {k: v for k, v in OTHER.items() if k.split(".")[0] == name}
    return FIELDS | changed


COND = conditioned(FIELDS)
flat = traverse_util.flatten_dict


@functools.cache
def network(name: str) -> tuple[Any, Any, Any, Any]:
    """Returns net, lively parameters, apply(params, cond), gradient(params, cond)."""
    net = dataclasses.replace(small.NETWORKS[name], conditions=SPECS)
    params = small.lively(net, Z_T, LOGSNR, COND)

    def apply(params, cond):
        return net.apply({"params": params}, Z_T, LOGSNR, cond)

    def loss(params, cond):
        # Linear, and different for each example and pixel.
        return jnp.sum(apply(params, cond) * jnp.sin(Z_T))

    return net, params, jax.jit(apply), jax.jit(jax.grad(loss))


@functools.cache
def fresh(name: str) -> Any:
    """Returns lively parameters in which all that conditions bring is as at the start.

    A network that is new altogether gives zero whatever its conditions are.
    """
    net, params, _, _ = network(name)
    old = flat(small.shapes(small.NETWORKS[name], Z_T, LOGSNR, LABELS))
    new = [path for path in flat(params) if path not in old]
    stem = ("stem", "conv", "kernel")

    @jax.jit
    def start(key):  # all other parameters are left out of the compiled program
        made = flat(net.init(key, Z_T, LOGSNR, COND)["params"])
        return {path: made[path] for path in (*new, stem)}

    made = start(jax.random.key(0))
    return traverse_util.unflatten_dict(flat(params) | made)


@each_network
def test_new_conditions_have_no_effect_on_what_the_network_was(name):
    _, _, apply, _ = network(name)
    params = flat(fresh(name))
    out = apply(fresh(name), COND)
    for cond in (conditioned(OTHER), conditioned(FIELDS, DROP_FIRST)):
        np.testing.assert_array_equal(apply(fresh(name), cond), out)
    # It is the network without conditions, whose stem has no rows for their channels.
    plain, stem = small.NETWORKS[name], ("stem", "conv", "kernel")
    old = flat(small.shapes(plain, Z_T, LOGSNR, LABELS))
    params = {path: params[path] for path in old}
    rows, joined = jnp.split(params[stem], [3], axis=2)
    assert joined.shape[2] == 3 and not joined.any() and rows.all()
    params = traverse_util.unflatten_dict(params | {stem: rows})
    want = jax.jit(plain.apply)({"params": params}, Z_T, LOGSNR, LABELS)
    np.testing.assert_allclose(out, want, atol=1e-5)
    assert np.abs(want).max() > 0.1


@each_gradient
def test_each_condition_changes_the_output_after_one_update(name):
    _, _, apply, gradient = network(name)
    start = fresh(name)
    slope = gradient(start, COND)
    params = jax.tree.map(lambda v, g: v - 0.01 * jnp.sign(g), start, slope)
    out = apply(params, COND)
    for condition in EXPECTED:
        other = apply(params, conditioned(of_condition(condition)))
        assert (np.abs(other - out).max((1, 2, 3)) > 1e-5).all(), condition


@each_gradient
def test_gradients_reach_every_parameter(name):
    _, params, _, gradient = network(name)
    slope = gradient(params, conditioned(FIELDS, DROP_FIRST))
    resting = [path for path, g in flat(slope).items() if not g.any()]
    assert resting == []
    assert all(np.isfinite(g).all() for g in flat(slope).values())


@each_network
def test_the_value_of_a_dropped_condition_has_no_influence(name):
    _, params, apply, _ = network(name)
    out = apply(params, conditioned(FIELDS, DROP_FIRST))
    other = apply(params, conditioned(OTHER, DROP_FIRST))
    np.testing.assert_array_equal(other[0], out[0])
    kept = apply(params, COND)
    np.testing.assert_array_equal(kept[1], out[1])
    assert np.abs(kept[0] - out[0]).max() > 1e-3


@each_network
def test_the_order_of_objects_changes_nothing(name):
    _, params, apply, _ = network(name)
    order = jnp.asarray([2, 0, 1])
    mixed = {k: v[:, order] for k, v in FIELDS.items() if k.startswith("layout")}
    got = apply(params, conditioned(FIELDS | mixed))
    np.testing.assert_allclose(got, apply(params, COND), atol=1e-5)


def test_a_row_of_padding_changes_nothing():
    _, params, apply, _ = network("unet")
    longer = {
        key: jnp.pad(v, ((0, 0), (0, 1)) + ((0, 0),) * (v.ndim - 2))
        for key, v in FIELDS.items()
        if key.startswith("layout")
    }
    got = apply(params, conditioned(FIELDS | longer))
    np.testing.assert_allclose(got, apply(params, COND), atol=1e-5)


def test_bfloat16_agrees_with_float32():
    net, params, apply, _ = network("uvit")
    half = dataclasses.replace(net, dtype=jnp.bfloat16)
    out = jax.jit(half.apply)({"params": params}, Z_T, LOGSNR, COND)
    want = apply(params, COND)
    # Eight bits of mantissa through some thirty layers.
    assert 1e-5 < np.linalg.norm(out - want) / np.linalg.norm(want) < 2e-2
