"""Invariants that hold for every network."""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from simple_diffusion.core.types import Conditioning
from tests.nets import small

NAMES = tuple(small.NETWORKS)
Z_T, LOGSNR, COND = small.inputs()

each_network = pytest.mark.parametrize("name", NAMES)


@functools.cache
def output(name: str) -> np.ndarray:
    _, params, apply = small.network(name)
    return np.asarray(apply(params, Z_T, LOGSNR, COND))


@each_network
def test_a_fresh_network_says_exactly_zero(name):
    apply = small.network(name)[2]
    out = apply(small.fresh(name), Z_T, LOGSNR, COND)
    np.testing.assert_array_equal(out, 0.0)
    assert out.shape == Z_T.shape and out.dtype == jnp.float32


@each_network
def test_permuting_the_batch_permutes_the_output(name):
    _, params, apply = small.network(name)
    order = np.asarray([3, 1, 7, 0, 2, 6, 5, 4])
    cond = Conditioning(label=COND.label[order])
    out = apply(params, Z_T[order], LOGSNR[order], cond)
    np.testing.assert_allclose(out, output(name)[order], atol=1e-5)


@each_network
def test_every_condition_and_every_pixel_matters(name):
    _, params, apply = small.network(name)
    changed = {
        "logsnr": (Z_T, LOGSNR + 1, COND),
        "label": (Z_T, LOGSNR, Conditioning(label=(COND.label + 1) % 4)),
        "z_t": (Z_T.at[:, 0, 0, 0].add(1.0), LOGSNR, COND),
    }
    for what, inputs in changed.items():
        difference = np.abs(np.asarray(apply(params, *inputs)) - output(name))
        assert (difference.max(axis=(1, 2, 3)) > 1e-3).all(), what


@each_network
def test_training_reaches_every_parameter_and_makes_every_condition_matter(name):
    net, _, apply = small.network(name)
    start = small.fresh(name)

    def loss(params):
        out = net.apply({"params": params}, Z_T, LOGSNR, COND)
        # A target that depends on the condition.
        target = Z_T * jnp.tanh(LOGSNR + COND.label)[:, None, None, None]
        return jnp.mean((out - target) ** 2)

    @jax.jit
    def step(params, rate):
        gradients = jax.grad(loss)(params)
        return jax.tree.map(lambda v, g: v - rate * jnp.sign(g), params, gradients)

    # The head, the last layer of a block and its FiLM all start at zero: each is
    # reached one update after the one before, so the embedding moves from the fourth
    # on. By signs, since the first gradients to arrive there are below rounding; by
    # halves, so that no way leads back to the start.
    params = start
    for rate in (0.02, 0.01, 0.005, 0.0025):
        params = step(params, rate)
    resting = [
        jax.tree_util.keystr(path)
        for (path, v), w in zip(
            jax.tree_util.tree_leaves_with_path(params),
            jax.tree.leaves(start),
            strict=True,
        )
        if not (v != w).any()
    ]
    assert resting == []
    out = apply(params, Z_T, LOGSNR, COND)
    for inputs in (
        (Z_T, LOGSNR + 1, COND),
        (Z_T, LOGSNR, Conditioning(label=(COND.label + 1) % 4)),
    ):
        assert np.abs(apply(params, *inputs) - out).max() > 1e-5


@each_network
def test_bfloat16_agrees_with_float32_and_leaves_the_parameters_alone(name):
    net, params, _ = small.network(name)
    half = dataclasses.replace(net, dtype=jnp.bfloat16)
    assert small.shapes(half, Z_T, LOGSNR, COND) == small.shapes(net, Z_T, LOGSNR, COND)
    out = jax.jit(half.apply)({"params": params}, Z_T, LOGSNR, COND)
    assert out.dtype == jnp.float32
    error = np.linalg.norm(out - output(name)) / np.linalg.norm(output(name))
    # Eight bits of mantissa through some thirty layers.
    assert 1e-5 < error < 2e-2


@each_network
def test_many_devices_agree_with_one(name):
    _, params, apply = small.network(name)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    everywhere = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    inputs = jax.device_put((Z_T, LOGSNR, COND), split)
    out = apply(everywhere, *inputs)
    assert len(out.sharding.device_set) == 8
    np.testing.assert_allclose(out, output(name), atol=1e-5)


def equations(jaxpr: Any, times: int = 1) -> Iterator[tuple[Any, int]]:
    """Yields every equation of a jaxpr, inner ones too, and how often it runs."""
    for equation in jaxpr.eqns:
        yield equation, times
        inner = times
        if equation.primitive.name == "scan":
            inner *= equation.params["length"]
        for value in equation.params.values():
            for v in value if isinstance(value, tuple | list) else (value,):
                v = getattr(v, "jaxpr", v)
                if hasattr(v, "eqns"):
                    yield from equations(v, inner)


def masks(net: Any, train: bool) -> list[tuple[int, ...]]:
    """Returns the shapes of the random bits that a call draws."""

    def call(params, key):
        inputs = (Z_T, LOGSNR, COND)
        return net.apply({"params": params}, *inputs, train, rngs={"dropout": key})

    shapes = small.shapes(net, Z_T, LOGSNR, COND)
    closed = jax.make_jaxpr(call)(shapes, jax.random.key(0))
    return [
        equation.outvars[0].aval.shape
        for equation, times in equations(closed.jaxpr)
        if equation.primitive.name == "random_bits"
        for _ in range(times)
    ]


@each_network
def test_dropout_is_only_where_the_level_says_and_only_in_training(name):
    net = small.NETWORKS[name]
    assert masks(net, train=False) == []
    drawn = masks(net, train=True)
    k = len(net.levels) - 1  # the one level with dropout
    size, level = small.SIZE // 2**k, net.levels[-1]
    width = level.channels * (4 if level.kind == "transformer" else 1)
    assert set(drawn) == {(small.BATCH, size, size, width)}
    # The U-Net's level: one block down, two up, two in the middle.
    assert len(drawn) == (5 if name == "unet" else level.blocks)


def test_dropout_changes_the_output_with_its_key():
    net, params, _ = small.network("uvit")

    @jax.jit
    def train(key):
        rngs = {"dropout": key}
        return net.apply({"params": params}, Z_T, LOGSNR, COND, True, rngs=rngs)

    one, other = train(jax.random.key(0)), train(jax.random.key(1))
    assert np.abs(one - other).max() > 1e-2
    np.testing.assert_array_equal(one, train(jax.random.key(0)))


@each_network
def test_remat_reaches_the_blocks_of_every_level(name):
    net = dataclasses.replace(small.NETWORKS[name], remat="full")
    shapes = small.shapes(net, Z_T, LOGSNR, COND)
    assert shapes == small.shapes(small.NETWORKS[name], Z_T, LOGSNR, COND)

    def call(params):
        return net.apply({"params": params}, Z_T, LOGSNR, COND)

    closed = jax.make_jaxpr(call)(shapes)
    names = [
        equation.primitive.name
        for equation, times in equations(closed.jaxpr)
        for _ in range(times)
    ]
    blocks = {"unet": 2 * (1 + 2) + 2, "uvit": 2 + 2, "residual_uvit": 3 + 2 + 2}
    # The primitive of jax.checkpoint, whatever it is called.
    (checkpoint,) = jax.make_jaxpr(jax.checkpoint(jnp.sin))(1.0).eqns
    assert names.count(checkpoint.primitive.name) == blocks[name]


@each_network
def test_sizes_that_do_not_divide_name_what_was_got_and_the_multiple(name):
    net = dataclasses.replace(small.NETWORKS[name], patching="conv_2")
    multiple = 2 * 2 ** (len(net.levels) - 1)
    z_t = jnp.zeros((1, 2 * multiple, multiple + 2, 3))
    message = f"multiples of {multiple}, got {2 * multiple}x{multiple + 2}"
    with pytest.raises(ValueError, match=message):
        small.shapes(net, z_t, LOGSNR[:1], Conditioning(label=COND.label[:1]))


@each_network
def test_any_size_that_divides_works_also_if_it_is_not_square(name):
    net, params, _ = small.network(name)
    z_t = jnp.ones((1, 16, 8, 3))
    cond = Conditioning(label=COND.label[:1])
    out = jax.eval_shape(net.apply, {"params": params}, z_t, LOGSNR[:1], cond)
    assert out.shape == z_t.shape


@each_network
@pytest.mark.parametrize("patching", ["conv_2", "dwt_1", "dwt_2", "haar_1"])
def test_every_patching_ends_where_it_began(name, patching):
    net = dataclasses.replace(
        small.NETWORKS[name],
        patching=patching,
        normalise_bands=True,
        output_channels=5,
        **({} if name == "unet" else {"training_size": (32, 32)}),
    )
    z_t = jnp.ones((1, 32, 16, 3))
    cond = Conditioning(label=COND.label[:1], image=jnp.ones((1, 32, 16, 2)))
    out = jax.eval_shape(
        lambda: net.init_with_output(jax.random.key(0), z_t, LOGSNR[:1], cond)[0]
    )
    assert out.shape == (1, 32, 16, 5) and out.dtype == jnp.float32


@each_network
def test_tokens_are_refused_without_cross_attention(name):
    cond = Conditioning(label=COND.label, tokens=jnp.ones((small.BATCH, 2, 4)))
    with pytest.raises(ValueError, match="without cross-attention got tokens"):
        small.shapes(small.NETWORKS[name], Z_T, LOGSNR, cond)


def multiply_adds(net: Any, *inputs: Any) -> float:
    """Returns the multiply-adds of matrix products and convolutions of one call."""
    shapes = small.shapes(net, *inputs)
    closed = jax.make_jaxpr(lambda p: net.apply({"params": p}, *inputs))(shapes)
    total = 0
    for equation, times in equations(closed.jaxpr):
        if equation.primitive.name == "dot_general":
            left, right = (v.aval.shape for v in equation.invars)
            (contracted, _), _ = equation.params["dimension_numbers"]
            inner = math.prod(left[k] for k in contracted)
            total += times * math.prod(equation.outvars[0].aval.shape) * inner
        elif equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape  # [h, w, in, out]
            out = math.prod(equation.outvars[0].aval.shape)
            total += times * out * math.prod(kernel[:-1])
    return total
