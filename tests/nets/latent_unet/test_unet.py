"""The U-Net of latent diffusion: published sizes, parity with PyTorch, invariants."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.core import arrays
from simple_diffusion.nets.latent_unet.unet import (
    LAYOUTS,
    LatentUNet,
    Layout,
    sinusoid,
)
from tests.nets.latent_unet import make_latent_unet_fixture as peers
from tests.nets.peer_weights import weight
from tests.vectors import vector

FIXTURE = Path(peers.__file__).with_name("latent_unet_fixture.npz")
PLAIN = Layout(
    peers.WIDTHS[0],
    (1, 2),
    attention=(2,),
    heads=peers.HEADS,
    blocks=1,
    is_resampled_in_blocks=True,
    is_scaled=True,
    in_channels=peers.CHANNELS,
    out_channels=peers.OUT,
    groups=peers.GROUPS,
)
TRANSFORMER = dataclasses.replace(
    PLAIN,
    attention=(1,),
    context=peers.CONTEXT,
    depth=peers.DEPTH,
    is_resampled_in_blocks=False,
    is_scaled=False,
)
NETWORKS = {"plain": PLAIN, "transformer": TRANSFORMER}

BLOCK = {"norm_1": "norm1", "conv_1": "conv1", "embedding": "time_emb_proj"}
BLOCK |= {"norm_2": "norm2", "conv_2": "conv2", "shortcut": "conv_shortcut"}
HEADS = {"query": "to_q", "key": "to_k", "value": "to_v", "out": "to_out.0"}
TOP = {
    "embedding_1": "time_embedding.linear_1",
    "embedding_2": "time_embedding.linear_2",
    "norm_out": "conv_norm_out",
}
INNER = {
    **{f"norm_{k}": f"norm{k}" for k in (1, 2, 3)},
    "up": "ff.net.0.proj",
    "down": "ff.net.2",
    **{f"self_attention.{k}": f"attn1.{v}" for k, v in HEADS.items()},
    **{f"cross_attention.{k}": f"attn2.{v}" for k, v in HEADS.items()},
}


def attention_name(inner, kind):
    """The rest of a name inside of an attention or a transformer."""
    if kind == "plain":
        return {**HEADS, "norm": "group_norm"}[inner[0]]
    if inner[0].startswith("block_"):
        number = inner[0].removeprefix("block_")
        return f"transformer_blocks.{number}.{INNER['.'.join(inner[1:])]}"
    return {"norm": "norm", "in": "proj_in", "out": "proj_out"}[inner[0]]


def their_name(path, kind):
    """The name in diffusers of an array of ours, by the rules of both."""
    first, *inner, leaf = path
    ending = "bias" if leaf == "bias" else "weight"
    way, _, rest = first.partition("_")
    if way == "middle":
        part, _, k = rest.partition("_")
        if part == "attention":
            return f"mid_block.attentions.0.{attention_name(inner, kind)}.{ending}"
        return f"mid_block.resnets.{k}.{BLOCK[inner[0]]}.{ending}"
    if way not in ("down", "up"):
        return f"{TOP.get(first, first)}.{ending}"
    level, _, what = rest.partition("_")
    number = int(level) if way == "down" else len(peers.WIDTHS) - 1 - int(level)
    place = f"{way}_blocks.{number}"
    if what == "resample":
        name = f"{place}.{way}samplers.0"
        return f"{name}.{BLOCK[inner[0]] if inner else 'conv'}.{ending}"
    part, _, k = what.partition("_")
    if part == "attention":
        return f"{place}.attentions.{k}.{attention_name(inner, kind)}.{ending}"
    return f"{place}.resnets.{k}.{BLOCK[inner[0]]}.{ending}"


def their_weight(path, shape, kind):
    """An array of the fixture's weights in our order of axes."""
    name, leaf = their_name(path, kind), path[-1]
    if len(shape) == 4:
        h, w, i, o = shape
        return weight(name, (o, i, h, w)).transpose(2, 3, 1, 0)
    if leaf == "kernel":
        rows = shape[0], int(np.prod(shape[1:]))  # heads are two axes
        is_conv = any(part in name for part in ("conv_shortcut", "proj_in", "proj_out"))
        theirs = (*rows[::-1], 1, 1) if is_conv else rows[::-1]
        return weight(name, theirs).reshape(rows[::-1]).T.reshape(shape)
    return weight(name, (int(np.prod(shape)),)).reshape(shape)


@pytest.mark.parametrize("kind", peers.KINDS)
def test_the_network_computes_what_diffusers_does(kind):
    net = LatentUNet(NETWORKS[kind])
    z_t, tokens = map(jnp.asarray, peers.inputs())
    tokens = tokens if kind == "transformer" else None
    time = jnp.array(peers.TIMES)
    shapes = jax.eval_shape(net.init, jax.random.key(0), z_t, time, tokens)
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(
            their_weight([key.key for key in path[1:]], leaf.shape, kind)
        ),
        shapes,
    )
    found = net.apply(params, z_t, time, tokens)
    with np.load(FIXTURE) as file:
        expected = file[kind]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, atol=1e-4 * scale, rtol=0)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_published_network_has_its_number_of_parameters(name):
    rows = {
        row["name"].replace("-", "_").lower(): row["params"]
        for row in vector("count.latent_unets")
    }
    n = LAYOUTS[name]
    tokens = None if n.context is None else jnp.zeros((1, 2, n.context))
    x = jnp.zeros((1, 16, 16, n.in_channels))
    shapes = jax.eval_shape(
        LatentUNet(n).init, jax.random.key(0), x, jnp.zeros(1), tokens
    )
    assert arrays.tree_size(shapes) == rows[name]


def test_times_are_told_by_cosines_and_then_sines():
    # By hand, of step 981 at width 320.
    found = np.asarray(sinusoid(jnp.array([981.0]), 320))[0]
    np.testing.assert_allclose(found[:3], [0.67996, -0.79843, 0.57809], atol=2e-4)
    np.testing.assert_allclose(found[160:163], [0.73325, 0.60209, 0.81597], atol=2e-4)


@pytest.fixture(scope="module")
def transformer():
    """A network with random weights everywhere, and its inputs."""
    net = LatentUNet(TRANSFORMER)
    z_t, tokens = map(jnp.asarray, peers.inputs())
    time = jnp.array(peers.TIMES)
    params = net.init(jax.random.key(0), z_t, time, tokens)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [
        leaf + 0.1 * jax.random.normal(key, leaf.shape)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return net, params, jax.tree.unflatten(tree, leaves), (z_t, time, tokens)


def test_a_fresh_network_returns_zero(transformer):
    net, fresh, _, inputs = transformer
    assert not np.asarray(net.apply(fresh, *inputs)).any()


def test_tokens_have_an_effect_and_no_order(transformer):
    net, _, params, (z_t, time, tokens) = transformer
    y = net.apply(params, z_t, time, tokens)
    np.testing.assert_allclose(
        net.apply(params, z_t, time, tokens[:, ::-1]), y, atol=1e-4
    )
    assert np.abs(net.apply(params, z_t, time, 2 * tokens) - y).max() > 0.01


def test_wrong_inputs_are_errors(transformer):
    net, _, params, (z_t, time, tokens) = transformer
    with pytest.raises(ValueError, match="5x10 cells: both sides .* multiples of 2"):
        net.apply(params, z_t[:, :5], time, tokens)
    with pytest.raises(ValueError, match="4 channels, not 5"):
        net.apply(params, z_t[..., :4], time, tokens)
    plain = LatentUNet(PLAIN)
    with pytest.raises(ValueError, match="without cross-attention got tokens"):
        plain.init(jax.random.key(0), z_t, time, tokens)
    with pytest.raises(ValueError, match="either heads or head_channels"):
        Layout(16, (1,), ())
