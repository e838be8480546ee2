"""What each key of the section `model` does, for every kind of network.

Of the U-ViT, which has blocks of both kinds, parameters and outputs are compared. Of
the other networks the linen module is, which is all that `Network.apply` calls; what
its fields do is tested in tests/nets.
"""

import zlib
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.build import network
from simple_diffusion.configs import base, networks
from simple_diffusion.core.types import Conditioning
from simple_diffusion.nets import ops
from tests.build.every_key import Case, check, kinds, set_keys, tiny, tiny_network

CLASSES = 3


def fields(config):
    """The linen module with all its fields, as text."""
    return repr(module(config))


def module(config):
    """The linen module of a config."""
    made = []

    def keep(*args):
        made.append(build(*args))
        return made[-1]

    build = network.build_module
    with mock.patch.object(network, "build_module", keep):
        network.build_network(config, CLASSES)
    return made[-1]


def shapes(config):
    """The parameters by name, with their shapes."""
    net = network.build_network(config, CLASSES)
    made = jax.eval_shape(net.init, jax.random.key(0))
    return {
        jax.tree_util.keystr(path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(made)
    }


def random_params(net):
    """Parameters of which none are 0, the same wherever name and shape are."""

    def draw(path, leaf):
        seed = zlib.crc32(jax.tree_util.keystr(path).encode())
        random = np.random.default_rng(seed)
        return jnp.asarray(0.3 * random.normal(size=leaf.shape), jnp.float32)

    made = jax.eval_shape(net.init, jax.random.key(0))
    return jax.tree_util.tree_map_with_path(draw, made)


def call(config, train=False):
    """The output for two patches of two noise levels and classes."""
    net = network.build_network(config, CLASSES)

    def apply(params, z_t, logsnr, label, box):
        cond = Conditioning(label=label, box=box)
        key = jax.random.key(1) if train else None
        return net.apply(params, z_t, logsnr, cond, key)

    z_t = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    box = jnp.array([[0.0, 0.0, 1.0, 1.0], [0.5, 0.0, 1.0, 0.5]])
    return jax.jit(apply)(
        random_params(net), z_t, jnp.array([-1.0, 2.0]), jnp.array([0, 2]), box
    )


def program(config):
    """The network as JAX traces it: what changes no numbers."""
    net = network.build_network(config, CLASSES)
    z_t = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)

    def apply(params, z_t):
        cond = Conditioning(label=jnp.zeros(1, jnp.int32))
        return net.apply(params, z_t, jnp.zeros(1), cond)

    params = jax.eval_shape(net.init, jax.random.key(0))
    text = str(jax.make_jaxpr(apply)(params, z_t))
    return [text.count(word) for word in ("remat", "checkpoint", "unroll=2")]


def implementation(config):
    """The implementation of attention that is asked for."""
    asked = []

    def attend(q, k, v, implementation="auto"):
        asked.append(implementation)
        return v

    with mock.patch.object(ops, "attention", attend):
        shapes(config)
    return asked


def trained(config):
    """The output with dropout."""
    return call(config, train=True)


# One U-ViT in which every key has an effect, so that it is compiled once.
FULL = {
    "data.patches": base.patches(8, 16),
    "model.position": "rope",
    "model.safa": ("first_conv",),
    "model.patching": "dwt_1",
}
UVIT = {
    "name": Case(tiny_network("unet"), shapes),
    "patching": Case("conv_2", shapes),
    "normalise_bands": Case(True, call),
    "base_channels": Case(16, shapes),
    "emb_channels": Case(16, shapes),
    "logsnr_input": Case("sigmoid", call),
    "emb_activation": Case("gelu_exact", call),
    "class_condition": Case("token", shapes),
    "class_token_width": Case(16, shapes, {"model.class_condition": "token"}),
    "conv_norm": Case("layer", call),
    "qk_norm": Case("none", shapes),
    "position": Case("none", call),
    "rope_fastest": Case(2.0, call),
    "activation": Case("gelu_tanh", call),
    "attention": Case("xla", implementation),
    "padding": Case("edge", call),
    "place_bands": Case(1, shapes),
    "safa": Case(("all",), shapes),
    "safa_experts": Case(2, shapes),
    "safa_gate": Case("sigmoid", call),
    "scale_input": Case("inverse", call),
    "scale_embedding": Case(True, shapes),
    "dtype": Case("bfloat16", call),
    "remat": Case("full", program),
    "skip": Case("concat", shapes),
    "token_norm": Case("group", call),
    "channels": Case((16,), shapes),
    "blocks": Case((2,), shapes),
    "extra_up_blocks": Case(1, shapes),
    "kinds": Case(("transformer",), shapes),
    "trunk_channels": Case(16, shapes),
    "trunk_blocks": Case(3, shapes),
    "trunk_heads": Case(1, shapes),
    "trunk_dropout": Case(0.5, trained),
    "film": Case("before_activation", call),
    "scan_unroll": Case(2, program),
}
COMMON = {
    key: case._replace(probe=fields)
    for key, case in UVIT.items()
    if key in networks._common()
}
COMMON["qk_norm"] = Case("rms", fields)
COMMON["position"] = Case("rope", fields)
COMMON["safa"] = Case(("none", "all"), fields)
LEVELS = {
    "channels": Case((8, 16), fields),
    "blocks": Case((1, 2), fields),
    "heads": Case((2, 1), fields),
    "extra_up_blocks": Case(2, fields),
}
UNET = {
    "name": Case(tiny_network("residual_uvit"), fields),
    **COMMON,
    **LEVELS,
    "skip": Case("add", fields),
    "resampling": Case("residual", fields),
    "attention_resolutions": Case((4, 8), fields),
    "dropout": Case(0.5, fields),
    "dropout_resolution": Case(8, fields),
}
RESIDUAL_UVIT = {
    "name": Case(tiny_network("unet"), fields),
    **COMMON,
    **LEVELS,
    "token_norm": Case("rms", fields),
    "kinds": Case(("conv", "conv"), fields),
    "dropout": Case((0.0, 0.5), fields),
    "film": Case("none", fields),
    "scan_unroll": Case(2, fields),
}


def _cases():
    for kind, cases in (
        ("uvit", UVIT),
        ("unet", UNET),
        ("residual_uvit", RESIDUAL_UVIT),
    ):
        for key, case in cases.items():
            given = {"model": tiny_network(kind)} | (FULL if kind == "uvit" else {})
            yield f"model:{kind}.{key}", case._replace(given=given | {**case.given})


CASES = dict(_cases())


@pytest.mark.parametrize("key", CASES)
def test_a_key_changes_what_it_describes(key):
    check(key, CASES[key])


@pytest.mark.parametrize("rate", [0.0, 0.25])
def test_the_trunk_of_a_uvit_has_its_dropout_and_no_other_level_has_any(rate):
    config = tiny()
    config.model.trunk_dropout = rate
    levels = module(config).levels
    assert [level.dropout for level in levels] == [0.0, rate]


@pytest.mark.parametrize(
    ("resolution", "rates"),
    [(8, [0.25, 0.25]), (7, [0.0, 0.25]), (4, [0.0, 0.25]), (3, [0.0, 0.0])],
)
def test_a_unet_drops_units_at_the_resolution_named_and_below(resolution, rates):
    config = tiny()
    set_keys(config, {"model": tiny_network("unet")})
    config.model.update(dropout=0.25, dropout_resolution=resolution)
    assert [level.dropout for level in module(config).levels] == rates


def test_masks_are_drawn_at_the_levels_with_dropout_only():
    config = tiny()
    set_keys(config, {"model": tiny_network("unet")})
    config.model.update(dropout=0.25, dropout_resolution=4)
    assert {tuple(shape[1:3]) for shape in masks(config)} == {(4, 4)}


def masks(config):
    """The shapes of the masks that a step of the training draws."""
    net, drawn = network.build_network(config, CLASSES), []
    bernoulli = jax.random.bernoulli

    def draw(key, p=0.5, shape=None, **options):
        drawn.append(shape)
        return bernoulli(key, p, shape, **options)

    def step():
        cond = Conditioning(label=jnp.zeros(1, jnp.int32))
        params = net.init(jax.random.key(0))
        z_t = jnp.zeros((1, 8, 8, 3))
        return net.apply(params, z_t, jnp.zeros(1), cond, jax.random.key(0))

    with mock.patch.object(jax.random, "bernoulli", draw):
        jax.eval_shape(step)
    return drawn


def test_every_kind_of_network_is_covered():
    assert {key.partition(":")[2].partition(".")[0] for key in CASES} == {
        *kinds(networks)
    }
