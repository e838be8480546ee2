import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.core.arrays import tree_size
from simple_diffusion.core.types import Conditioning
from simple_diffusion.nets.conditions import Embedding
from simple_diffusion.nets.layers import Level, Style
from simple_diffusion.nets.unet import UNet
from tests.nets import small
from tests.vectors import vector

# Image size, patching, multipliers and blocks of simple diffusion's U-Nets.
PAPER = {
    "128": (128, "none", (1, 2, 4, 8, 8), (3, 4, 4, 12, 4)),
    "256": (256, "none", (1, 1, 2, 4, 8, 8), (1, 2, 2, 4, 12, 4)),
    "512_no_patching": (512, "none", (1, 1, 1, 2, 4, 8, 8), (1, 1, 2, 2, 4, 12, 4)),
    "512_dwt_1": (512, "dwt_1", (1, 2, 2, 4, 8, 8), (2, 2, 2, 4, 12, 4)),
    "512_dwt_2": (512, "dwt_2", (2, 3, 4, 8, 8), (3, 3, 4, 12, 4)),
}


def one(size: int) -> tuple:
    label = Conditioning(label=jnp.zeros(1, int))
    return jnp.zeros((1, size, size, 3)), jnp.zeros(1), label


def paper(name: str, skip: str) -> tuple[UNet, int]:
    size, patching, multipliers, blocks = PAPER[name]
    # Attention where the map is 16 or 8 pixels wide: the two lowest levels.
    levels = tuple(
        Level(128 * m, n, attention=len(blocks) - k <= 2)
        for k, (m, n) in enumerate(zip(multipliers, blocks, strict=True))
    )
    embedding = Embedding(num_classes=1000)
    return UNet(levels, embedding, Style(skip=skip), patching), size


@pytest.mark.parametrize("entry", vector("count.sid_unet"), ids=lambda e: e["config"])
@pytest.mark.parametrize(
    ("skip", "field"), [("add_sqrt2", "params"), ("concat", "params_concat")]
)
def test_the_networks_of_the_paper_have_their_number_of_parameters(entry, skip, field):
    net, size = paper(entry["config"], skip)
    assert tree_size(small.shapes(net, *one(size))) == entry[field]


def test_the_modernised_imagenet_64_network_can_be_said_in_the_table():
    """RMS norm, GELU, plain skips, rotary positions, QK norm, heads of 64 features."""
    levels = tuple(
        Level(192 * m, 3, attention=m > 2, heads=3 * m, dropout=0.1 if m > 1 else 0.0)
        for m in (1, 2, 3, 4)
    )
    style = Style("rms", "rms", "gelu", "add", qk_norm="rms", position="rope")
    embedding = Embedding(192, 192, num_classes=1000)
    shapes = small.shapes(UNet(levels, embedding, style), *one(64))
    attention = shapes["down_3_0"]["attention"]
    assert attention["qkv"]["kernel"].shape == (768, 12, 3, 64)
    assert set(attention["norm_q"]) == {"scale"}
    assert "attention" not in shapes["down_1_0"] and "attention" in shapes["up_2_3"]
    assert "norm_skip" not in shapes["up_0_0"]


def test_skips_run_from_the_first_operation_to_the_last_block():
    """With every block of the way down at rest, the stem still reaches the top."""
    net, params, apply = small.network("unet")
    z_t, logsnr, cond = small.inputs()
    out = apply(params, z_t, logsnr, cond)
    # Cut the path through the lower level: what remains comes by skips alone.
    up = {k: jnp.zeros_like(v) for k, v in params["up_0"]["conv"].items()}
    cut = {**params, "up_0": {"conv": up}}
    changed = apply(cut, z_t.at[:, 0, 0, 0].add(1.0), logsnr, cond)
    assert np.abs(changed - apply(cut, z_t, logsnr, cond)).max() > 1e-2
    assert np.abs(apply(cut, z_t, logsnr, cond) - out).max() > 1e-2


@pytest.mark.parametrize(
    ("blocks_up", "with_skip"), [(None, 3), (1, 1), (2, 2), (4, 3)]
)
def test_blocks_up_take_the_maps_of_their_level_as_far_as_there_are_any(
    blocks_up, with_skip
):
    level = Level(8, 2, blocks_up=blocks_up)
    shapes = small.shapes(UNet((level,), small.EMBEDDING), *small.inputs())
    ups = [k for k in shapes if k.startswith("up_0_")]
    assert len(ups) == (blocks_up or 3)
    assert sum("norm_skip" in shapes[k]["res"] for k in ups) == with_skip


def test_a_transformer_level_is_refused():
    with pytest.raises(ValueError, match="all levels of a U-Net must have kind='conv'"):
        small.shapes(UNet((small.trunk(8, 1),), small.EMBEDDING), *small.inputs())


def test_position_tables_are_refused():
    net = UNet((Level(8, 1),), small.EMBEDDING, Style(position="learned"))
    with pytest.raises(ValueError, match="position='learned' needs a transformer"):
        small.shapes(net, *small.inputs())
