import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.core.arrays import tree_size
from simple_diffusion.core.types import Conditioning
from simple_diffusion.nets.conditions import Embedding
from simple_diffusion.nets.layers import Level, ResBlock, Style
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


def modernised() -> UNet:
    """The ImageNet-64 U-Net of google/hackable_diffusion, as far as shapes tell."""
    levels = tuple(
        Level(192 * m, 3, attention=m > 2, heads=3 * m, dropout=0.1 if m > 1 else 0.0)
        for m in (1, 2, 3, 4)
    )
    style = Style("rms", "rms", "gelu_tanh", "concat", qk_norm="l2", position="rope")
    embedding = Embedding(192, 192, num_classes=1000, input="flow")
    return UNet(levels, embedding, style, resampling="residual")


def residual(into: int, out: int) -> int:
    """Parameters of their residual block: norm, conv, FiLM of 192, conv, shortcut."""
    convs = (9 * into + 1) * out + (9 * out + 1) * out
    return into + convs + (192 + 1) * 2 * out + (into != out) * (into + 1) * out


def attention(width: int) -> int:
    """Parameters of their attention: norm, four linear maps, one scale."""
    return width + 4 * (width + 1) * width + 1


def test_the_modernised_imagenet_64_network_has_its_269_6_million_parameters():
    # Their backbone, block by block; all skips are concatenated.
    widths, blocks = [192, 384, 576, 768], []
    skips, width = [192], 192
    for k, level in enumerate(widths):
        for _ in range(3):
            blocks.append((width, level))
            skips.append(width := level)
        if k < 3:
            blocks.append((level, level))  # half the resolution
            skips.append(level)
    blocks += [(768, 768)] * 2
    for k, level in reversed([*enumerate(widths)]):
        for _ in range(4):
            blocks.append((width + skips.pop(), level))
            width = level
        if k:
            blocks.append((level, level))  # twice the resolution
    ends = (9 * 3 + 1) * 192 + 192 + (9 * 192 + 1) * 3
    theirs = ends + sum(residual(*block) for block in blocks)
    theirs += 7 * (attention(576) + attention(768)) + attention(768)
    assert theirs == 269_606_418  # what their code counts

    parameters = dict(small.shapes(modernised(), *one(64)))
    parameters.pop("embedding")
    # Our norms with a FiLM have a scale besides it.
    assert tree_size(parameters) == theirs + sum(out for _, out in blocks)


def test_residual_resampling_has_skips_of_both_widths_and_one_scale_per_attention():
    shapes = small.shapes(modernised(), *one(64))
    assert shapes["down_3_0"]["attention"]["qkv"]["kernel"].shape == (768, 12, 3, 64)
    assert shapes["down_3_0"]["attention"]["qk_scale"].shape == ()
    assert "attention" not in shapes["down_1_0"] and "attention" in shapes["up_2_3"]
    for block, into, out in (("down_1", 192, 192), ("up_0", 384, 384)):
        assert set(shapes[block]) == {"res"}  # neither attention nor a shortcut
        kernel = shapes[block]["res"]["conv_1"]["kernel"]
        assert kernel.shape == (3, 3, into, out)
    # The first block above takes the last skip of its level, the last one the map that
    # came down, which has the width of the level above.
    entry = {
        k: shapes[k]["res"]["conv_1"]["kernel"].shape for k in shapes if "_3_" in k
    }
    assert entry["up_3_0"] == (3, 3, 768 + 768, 768)
    assert entry["up_3_3"] == (3, 3, 768 + 576, 768)


def test_a_resampling_block_averages_or_repeats_in_both_of_its_branches():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 4, 6, 8)), jnp.float32)
    emb = jnp.asarray(rng.normal(size=(2, 5)), jnp.float32)
    plain = ResBlock(8, Style("rms"))
    parameters = small.lively(plain, x, emb)

    def inside(x, resample=None):
        block = ResBlock(8, Style("rms"), resample=resample)
        return block.apply({"params": parameters}, x, emb)

    # A map of equal 2x2 blocks: halving it is exact.
    twice = jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)
    np.testing.assert_allclose(inside(twice, "down"), inside(x), atol=1e-5)
    np.testing.assert_allclose(inside(x, "up"), inside(twice), atol=1e-5)


def test_residual_resampling_needs_concatenated_skips():
    net = UNet((Level(8, 1),), small.EMBEDDING, resampling="residual")
    with pytest.raises(ValueError, match="needs skip='concat', not 'add_sqrt2'"):
        small.shapes(net, *small.inputs())


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
