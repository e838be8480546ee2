import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from simple_diffusion.nets.conditions import Embedding
from simple_diffusion.nets.layers import Level, Style
from simple_diffusion.nets.patching import Head, Stem
from simple_diffusion.nets.residual_uvit import ResidualUViT
from tests.nets import small
from tests.nets.test_unet import one


def test_with_blocks_at_rest_the_features_of_the_stem_reach_the_head_unchanged():
    """Zero-init blocks: nothing is added on the way, position tables included."""
    params = dict(small.fresh("residual_uvit"))
    rng = np.random.default_rng(0)
    # Nothing else is at rest: the maps between the levels, the tables, the head.
    for name in ("down_1", "down_2", "up_0", "up_1"):
        kernel = params[name]["conv"]["kernel"]
        noise = jnp.asarray(rng.normal(size=kernel.shape), jnp.float32)
        params[name] = {"conv": {**params[name]["conv"], "kernel": kernel + noise}}
    net = small.NETWORKS["residual_uvit"]
    inputs = small.inputs()
    params["head"] = small.lively(net, *inputs)["head"]
    h = Stem(8).apply({"params": params["stem"]}, inputs[0])
    want = Head(3, Style()).apply({"params": params["head"]}, h)
    apply = small.network("residual_uvit")[2]
    np.testing.assert_allclose(apply(params, *inputs), want, atol=1e-5)


def test_up_projections_have_no_bias_at_the_start():
    params = small.fresh("residual_uvit")
    assert not params["up_0"]["conv"]["bias"].any()


def test_a_lower_level_returns_only_what_it_has_changed():
    """A change by a constant below arrives as the up projection of that constant."""
    net = ResidualUViT((Level(8, 0), Level(8, 1)), small.EMBEDDING, (8, 8))
    inputs = small.inputs()
    params = small.lively(net, *inputs)
    # The block below adds its last bias and nothing else.
    last = params["down_1_0"]["res"]["conv_2"]
    constant = {"kernel": jnp.zeros_like(last["kernel"]), "bias": last["bias"]}
    params["down_1_0"]["res"]["conv_2"] = constant
    up = small.host(params["up_0"]["conv"])
    change = np.asarray(last["bias"]) @ up["kernel"] + up["bias"]
    h = Stem(8).apply({"params": params["stem"]}, inputs[0])
    want = Head(3, Style()).apply(
        {"params": params["head"]}, h + np.broadcast_to(change, h.shape)
    )
    got = net.apply({"params": params}, *inputs)
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_rolled_and_unrolled_trunks_agree_in_every_level():
    net, params, apply = small.network("residual_uvit")
    rolled = dataclasses.replace(net, scan_unroll=1)
    inputs = small.inputs()
    got = jax.jit(rolled.apply)({"params": params}, *inputs)
    np.testing.assert_allclose(got, apply(params, *inputs), atol=1e-4)


def test_sid2_s_small_network_can_be_said_in_the_table():
    """Residual blocks above, transformers below, 16 blocks in the middle, patch 2."""
    kinds = ("conv", "conv", "transformer", "transformer")
    channels, blocks = (128, 256, 512, 1024), (3, 3, 3, 16)
    levels = tuple(
        Level(c, n, kind, blocks_up=None if n == 16 else 5, dropout=0.1 * (c > 256))
        for c, n, kind in zip(channels, blocks, kinds, strict=True)
    )
    net = ResidualUViT(
        levels, Embedding(num_classes=1000), (256, 256), patching="conv_2"
    )
    shapes = small.shapes(net, *one(256))
    trunks = {k: v["blocks"] for k, v in shapes.items() if k.endswith("trunk")}
    depths = {k: jax.tree.leaves(v)[0].shape[0] for k, v in trunks.items()}
    assert depths == {"down_2_trunk": 3, "up_2_trunk": 5, "down_3_trunk": 16}
    assert shapes["position_2"]["table"].shape == (32, 32, 512)
    assert shapes["position_3"]["table"].shape == (16, 16, 1024)
    # One skip a level: no block takes one in.
    assert not any("norm_skip" in v.get("res", {}) for v in shapes.values())


def test_the_embedding_enters_through_the_convolutions_if_the_trunk_has_no_film():
    style = dataclasses.replace(small.NETWORKS["residual_uvit"].style, film="none")
    net = dataclasses.replace(small.NETWORKS["residual_uvit"], style=style)
    shapes = small.shapes(net, *small.inputs())
    assert "film" not in shapes["down_2_trunk"]["blocks"]["mlp"]
    assert "film" in shapes["down_0_0"]["res"]
