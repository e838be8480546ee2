"""Invariants of the networks that use position and scale."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.core.types import Conditioning
from simple_diffusion.nets import position, safa, transformer
from tests.nets import small

SCALE = position.Scale(8, 16)
BOX = jnp.array([[0.0, 0.0, 1.0, 1.0], [0.5, 0.0, 1.0, 0.5], [0.1, 0.2, 0.7, 0.8]] * 2)
Z_T, LOGSNR, LABELS = small.inputs(6)
COND = dataclasses.replace(LABELS, box=BOX)

each_network = pytest.mark.parametrize("name", tuple(small.NETWORKS))


@functools.cache
def network(name: str, padding: safa.Padding = "edge") -> tuple[Any, Any]:
    """Returns parameters and apply of a network with everything switched on."""
    plain = small.NETWORKS[name]
    position = "none" if name == "unet" else "rope"
    net = plain.clone(
        levels=tuple(
            dataclasses.replace(v, safa="all" if v.kind == "conv" else "none")
            for v in plain.levels
        ),
        embedding=small.EMBEDDING.clone(scale=SCALE),
        style=dataclasses.replace(
            plain.style,
            position=position,
            bands=2,
            padding=padding,
            mixture=safa.Mixture(SCALE, hidden=8),
        ),
    )
    params = small.lively(net, Z_T, LOGSNR, COND)
    return params, jax.jit(lambda *args: net.apply({"params": params}, *args))


@each_network
def test_a_mixed_batch_equals_separate_runs(name):
    _, apply = network(name)
    together = apply(Z_T, LOGSNR, COND)
    for n in range(3):
        one = slice(n, n + 1)
        cond = Conditioning(label=COND.label[one], box=BOX[one])
        alone = apply(Z_T[one], LOGSNR[one], cond)
        np.testing.assert_allclose(together[one], alone, atol=2e-4)


@each_network
def test_images_of_one_known_size_equal_those_whose_size_follows(name):
    _, apply = network(name)
    box = jnp.array([[0.0, 0.0, 0.5, 0.5], [0.5, 0.25, 1.0, 0.75]] * 3)
    follows = Conditioning(label=COND.label, box=box)
    known = dataclasses.replace(follows, full_size=(16, 16))
    a, b = apply(Z_T, LOGSNR, follows), apply(Z_T, LOGSNR, known)
    np.testing.assert_allclose(a, b, atol=2e-4)


@each_network
def test_position_and_scale_each_change_the_result(name):
    _, apply = network(name)
    plain = apply(Z_T, LOGSNR, COND)
    moved = apply(Z_T, LOGSNR, dataclasses.replace(COND, box=BOX + 0.125))
    # The same crop, of an image that is said to have been larger.
    larger = dataclasses.replace(COND, full_size=(32, 32))
    larger = apply(Z_T, LOGSNR, larger)
    for other in (moved, larger):
        difference = np.abs(np.asarray(plain - other)).max((1, 2, 3))
        assert (difference > 1e-3).all()


@each_network
def test_without_a_box_the_input_is_the_full_image(name):
    _, apply = network(name)
    whole = jnp.tile(BOX[:1], (6, 1))
    a = apply(Z_T, LOGSNR, LABELS)
    b = apply(Z_T, LOGSNR, dataclasses.replace(LABELS, box=whole))
    np.testing.assert_allclose(a, b, atol=2e-4)


@each_network
def test_every_size_and_shape_can_be_asked_for(name):
    _, apply = network(name)
    for h, w in ((8, 16), (24, 8)):
        z_t = jnp.ones((1, h, w, 3))
        cond = Conditioning(label=COND.label[:1], box=BOX[:1], full_size=(h, w))
        assert apply(z_t, LOGSNR[:1], cond).shape == (1, h, w, 3)


@each_network
def test_a_network_without_position_inputs_ignores_the_box(name):
    _, params, apply = small.network(name)
    a = apply(params, Z_T, LOGSNR, LABELS)
    b = apply(params, Z_T, LOGSNR, COND)
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["uvit", "residual_uvit"])
def test_every_attention_knows_the_training_grid_and_the_region(name):
    """Whatever the size of the input, the extent is that of the training."""
    plain = small.NETWORKS[name]
    net = plain.clone(style=dataclasses.replace(plain.style, position="rope"))
    found = []

    def spy(call, args, kwargs, context):
        is_attention = isinstance(context.module, transformer.SelfAttention)
        if is_attention and context.method_name == "__call__":
            x, region = args
            is_of_the_input = region.size == (2 * small.SIZE, small.SIZE)
            found.append((x.shape[1:3], context.module.extent, is_of_the_input))
        return call(*args, **kwargs)

    z_t = jnp.zeros((6, 2 * small.SIZE, small.SIZE, 3))
    with nn.intercept_methods(spy):
        small.shapes(net, z_t, LOGSNR, COND)
    side = small.SIZE // 2
    expected = {((2 * side, side), (side, side), True)}
    if name == "residual_uvit":  # another level of half the side
        side //= 2
        expected.add(((2 * side, side), (side, side), True))
    assert set(found) == expected


def test_a_level_that_is_scale_aware_needs_a_mixture():
    plain = small.NETWORKS["unet"]
    level = dataclasses.replace(plain.levels[0], safa="first_conv")
    net = plain.clone(levels=(level, *plain.levels[1:]))
    with pytest.raises(ValueError, match="safa='first_conv' needs a Style.mixture"):
        small.shapes(net, Z_T, LOGSNR, COND)


def test_first_conv_makes_the_first_of_each_block_scale_aware():
    plain = small.NETWORKS["unet"]
    level = dataclasses.replace(plain.levels[0], safa="first_conv")
    style = dataclasses.replace(plain.style, mixture=safa.Mixture(SCALE))
    net = plain.clone(levels=(level, *plain.levels[1:]), style=style)
    params = small.shapes(net, Z_T, LOGSNR, COND)
    block = params["down_0_0"]["res"]
    assert "kernels" in block["conv_1"] and "kernel" in block["conv_2"]
    assert "kernel" in params["down_1_0"]["res"]["conv_1"]
