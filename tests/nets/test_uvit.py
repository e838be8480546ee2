import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.core.arrays import tree_size
from simple_diffusion.nets import position, uvit
from simple_diffusion.nets.conditions import Embedding
from simple_diffusion.nets.layers import Level
from simple_diffusion.nets.uvit import UViT
from tests.nets import small
from tests.nets.test_networks import multiply_adds
from tests.nets.test_unet import one
from tests.vectors import vector

PATCHING = {3: ("none", 128), 12: ("dwt_1", 256), 48: ("dwt_2", 512)}


def paper(channels: int, film: str = "hidden", extra_up: int = 0) -> tuple[UViT, int]:
    """The U-ViT of simple diffusion for an input of so many channels after patching."""
    patching, size = PATCHING[channels]
    conv = tuple(Level(c, 2, blocks_up=2 + extra_up) for c in (128, 256, 512))
    trunk = Level(2048, 36, kind="transformer", heads=4, dropout=0.2)
    net = UViT(
        (*conv, trunk),
        Embedding(num_classes=1000),
        (size, size),
        style=dataclasses.replace(uvit.STYLE, film=film),
        patching=patching,
        normalise_bands=True,
    )
    return net, size


@pytest.mark.parametrize(
    "entry", vector("count.uvit"), ids=lambda e: str(e["input_channels"])
)
@pytest.mark.parametrize(
    ("field", "variant"),
    [
        ("params", {}),
        ("params_film_on_block_input", {"film": "input"}),
        ("params_no_film", {"film": "none"}),
        ("params_one_more_up_block", {"extra_up": 1}),
    ],
)
def test_the_networks_of_the_paper_have_their_number_of_parameters(
    entry, field, variant
):
    net, size = paper(entry["input_channels"], **variant)
    assert tree_size(small.shapes(net, *one(size))) == entry[field]


@pytest.mark.parametrize(
    ("field", "extra_up"), [("gmac", 0), ("gmac_one_more_up_block", 1)]
)
def test_the_networks_of_the_paper_have_their_number_of_multiply_adds(field, extra_up):
    entry = vector("count.uvit")[2]
    net, size = paper(entry["input_channels"], extra_up=extra_up)
    measured = multiply_adds(net, *one(size)) / 1e9
    np.testing.assert_allclose(measured, entry[field], atol=0.05)  # rounded to 0.1


def test_parameters_of_the_trunk_are_stacked_over_the_blocks():
    shapes = small.shapes(paper(3)[0], *one(128))
    leading = {v.shape[0] for v in jax.tree.leaves(shapes["trunk"])}
    assert leading == {36}


def test_a_constant_position_table_is_constant_at_any_size():
    net, params, _ = small.network("uvit")
    z_t, logsnr, cond = small.inputs()
    table = jnp.full_like(params["position"]["table"], 0.3)
    learned = {"params": {**params, "position": {"table": table}}}
    # A constant added to every token is a bias of the map before the trunk.
    shifted = jax.tree.map(jnp.copy, params)
    shifted["down_1"]["conv"]["bias"] += 0.3
    del shifted["position"]
    plain = dataclasses.replace(
        net, style=dataclasses.replace(net.style, position="none")
    )
    tall = jnp.concatenate([z_t, z_t[:, ::-1]], axis=1)
    np.testing.assert_allclose(
        jax.jit(net.apply)(learned, tall, logsnr, cond),
        jax.jit(plain.apply)({"params": shifted}, tall, logsnr, cond),
        atol=1e-5,
    )


def test_at_the_training_size_each_token_has_its_own_row_of_the_table():
    net, params, apply = small.network("uvit")
    inputs = small.inputs()
    table = params["position"]["table"]
    assert table.shape == (4, 4, 16)
    moved = {**params, "position": {"table": table.at[3, 0].add(1.0)}}
    assert np.abs(apply(moved, *inputs) - apply(params, *inputs)).max() > 1e-3
    assert position.resize_table(table, (4, 4)) is table


@pytest.mark.parametrize("kind", ["rope", "sincos", "none"])
def test_a_network_without_a_learned_table_has_no_table(kind):
    style = dataclasses.replace(uvit.STYLE, position=kind)
    net = dataclasses.replace(small.NETWORKS["uvit"], style=style)
    assert "position" not in small.shapes(net, *small.inputs())


def test_a_transformer_alone_on_patches_is_a_network_too():
    net = UViT((small.trunk(16, 2),), small.EMBEDDING, (8, 8), patching="conv_4")
    shapes = small.shapes(net, *small.inputs())
    assert set(shapes) == {"embedding", "stem", "position", "trunk", "head"}
    assert shapes["position"]["table"].shape == (2, 2, 16)


@pytest.mark.parametrize("skip", ["add_sqrt2", "add", "concat"])
def test_a_level_above_the_trunk_may_be_a_transformer_with_skips(skip):
    style = dataclasses.replace(uvit.STYLE, skip=skip)
    levels = Level(8, 1), small.trunk(16, 1), small.trunk(16, 2)
    net = UViT(levels, small.EMBEDDING, (8, 8), style, scan_unroll=2)
    inputs = small.inputs()
    params = small.shapes(net, *inputs)
    assert params["position_1"]["table"].shape == (4, 4, 16)
    assert params["position"]["table"].shape == (2, 2, 16)
    assert set(params["down_1_0"]) == {"block"}
    assert ("merge" in params["up_1_0"]) == (skip == "concat")
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda v: jnp.asarray(0.2 * random.normal(size=v.shape), jnp.float32), params
    )
    apply = jax.jit(lambda params: net.apply({"params": params}, *inputs))
    found = apply(params)

    def without(name):  # a block that changes nothing
        block = jax.tree.map(jnp.zeros_like, params[name]["block"])
        changed = {**params, name: {**params[name], "block": block}}
        return apply(changed)

    for name in ("down_1_0", "up_1_0"):
        assert np.abs(without(name) - found).max() > 1e-3
    # The skip is the output of the block on the way down, past all that is below.
    below = {
        **params,
        "trunk": jax.tree.map(jnp.zeros_like, params["trunk"]),
        "up_1": jax.tree.map(jnp.zeros_like, params["up_1"]),
    }
    changed = {**below, "down_1_0": {"block": params["up_1_0"]["block"]}}
    outputs = [apply(below), apply(changed)]
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-3


@pytest.mark.parametrize(
    "levels", [(Level(8, 1),), (small.trunk(8, 1), Level(8, 1), small.trunk(8, 1))]
)
def test_levels_in_another_order_are_refused(levels):
    net = UViT(levels, small.EMBEDDING, (8, 8))
    with pytest.raises(ValueError, match="must be 'conv', and the last 'transformer'"):
        small.shapes(net, *small.inputs())


def test_a_training_size_that_does_not_divide_is_refused():
    net = dataclasses.replace(small.NETWORKS["uvit"], training_size=(9, 8))
    with pytest.raises(ValueError, match="multiples of 2, got 9x8"):
        small.shapes(net, *small.inputs())
