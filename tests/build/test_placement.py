"""The sharding of every parameter of the U-ViT of 2.455 billion parameters.

Meshes are abstract: nothing is allocated and no device is needed.
"""

import functools
import math
import re

import jax
import pytest
from jax.sharding import AbstractMesh, AxisType

from simple_diffusion.build import network, training
from simple_diffusion.configs import imagenet512
from simple_diffusion.training import sharding, state

MIB = 2**20

# Mesh axes of the columns of the table: (data, fsdp, tensor).
MESHES = {
    "64": (1, 64, 1),
    "16x4": (1, 16, 4),
    "256": (1, 256, 1),
}

# "f" is split over fsdp, "t" over tensor, "." not split; a row may cover many arrays.
# The trunk has 2.43 of the 2.46 billion parameters. Its 36-block stack is not split.
TABLE = [
    # path, shape, fsdp=64, fsdp=16 with tensor=4, fsdp=256
    (
        "trunk/.*/qkv/kernel",
        (36, 2048, 4, 3, 512),
        ". f . . .",
        ". f t . .",
        ". f . . .",
    ),
    ("trunk/.*/qkv/bias", (36, 4, 3, 512), ". . . .", ". t . .", ". . . ."),
    ("trunk/.*/out/kernel", (36, 2048, 2048), ". . f", ". t f", ". . f"),
    ("trunk/.*/dense_1/kernel", (36, 2048, 8192), ". . f", ". f t", ". . f"),
    ("trunk/.*/dense_1/bias", (36, 8192), ". .", ". t", ". ."),
    ("trunk/.*/dense_2/kernel", (36, 8192, 2048), ". f .", ". t f", ". f ."),
    ("trunk/.*/film/.*/kernel", (36, 1024, 16384), ". . f", ". f t", ". . f"),
    ("trunk/.*/film/.*/bias", (36, 16384), ". f", ". t", ". f"),
    ("trunk/.*/(norm/scale|out/bias|dense_2/bias)", (36, 2048), ". .", ". .", ". ."),
    ("trunk/.*/norm_[qk]/(scale|bias)", (36, 512), ". .", ". .", ". ."),
    # Convolutional levels have no tensor parallelism. 128 and 48 channels do not divide
    # by 256: these kernels are copied, at most 0.6 MiB each.
    (".*/conv_[12]/kernel", (3, 3, 128, 128), ". . . f", ". . . f", ". . . ."),
    (".*/conv_[12]/kernel", (3, 3, 256, 256), ". . . f", ". . . f", ". . . f"),
    (".*/conv_[12]/kernel", (3, 3, 512, 512), ". . . f", ". . . f", ". . . f"),
    (".*/res/film/.*/kernel", (1024, 256), "f .", "f .", "f ."),
    (".*/res/film/.*/kernel", (1024, 512), "f .", "f .", "f ."),
    (".*/res/film/.*/kernel", (1024, 1024), ". f", ". f", ". f"),
    ("down_1/conv/kernel", (128, 256), ". f", ". f", ". f"),
    ("down_2/conv/kernel", (256, 512), ". f", ". f", ". f"),
    ("down_3/conv/kernel", (512, 2048), ". f", ". f", ". f"),
    ("up_0/conv/kernel", (256, 128), "f .", "f .", "f ."),
    ("up_1/conv/kernel", (512, 256), "f .", "f .", "f ."),
    ("up_2/conv/kernel", (2048, 512), "f .", "f .", "f ."),
    ("stem/conv/kernel", (3, 3, 48, 128), ". . . f", ". . . f", ". . . ."),
    ("head/conv/kernel", (3, 3, 128, 48), ". . f .", ". . f .", ". . . ."),
    ("position/table", (16, 16, 2048), ". . f", ". . f", ". . f"),
    ("embedding/classes", (1001, 1024), ". f", ". f", ". f"),
    ("embedding/Dense_0/kernel", (128, 1024), ". f", ". f", ". f"),
    ("embedding/Dense_1/kernel", (1024, 1024), ". f", ". f", ". f"),
    # Vectors outside the trunk: at most 2048 numbers each.
    ("(stem|head|embedding|down|up).*/(bias|scale)", None, ".", ".", "."),
]


@functools.cache
def shapes():
    """Returns the state of a run as shapes."""
    config = imagenet512.get_config("uvit")
    plan = state.blueprint(
        network.build_network(config, num_classes=1000).init,
        training.build_optimizer(config, total_steps=500_000),
        training.build_averages(config),
        mesh=sharding.make_mesh(devices=jax.devices()[:1]),
    )
    return plan.abstract


@functools.cache
def placed(axes):
    """Returns the state on a mesh as shapes with shardings, by path."""
    mesh = AbstractMesh(axes, sharding.AXES, axis_types=(AxisType.Auto,) * 3)
    where = jax.tree.leaves(sharding.state_shardings(shapes(), mesh))
    leaves = jax.tree_util.tree_leaves_with_path(shapes())
    return {
        sharding.path_name(path): jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=s)
        for (path, v), s in zip(leaves, where, strict=True)
    }


def params(axes):
    return {
        name.removeprefix("params/"): leaf
        for name, leaf in placed(axes).items()
        if name.startswith("params/")
    }


def letters(leaf):
    spec = [*leaf.sharding.spec, *(None,) * leaf.ndim][: leaf.ndim]
    return " ".join({None: ".", "fsdp": "f", "tensor": "t"}[axis] for axis in spec)


@pytest.mark.parametrize("name", MESHES)
def test_every_parameter_lies_where_the_table_says(name):
    column = 2 + list(MESHES).index(name)
    used = set()
    for path, leaf in params(MESHES[name]).items():
        rows = [
            row
            for row in TABLE
            if re.fullmatch(row[0], path) and row[1] in (None, leaf.shape)
        ]
        assert len(rows) == 1, (path, leaf.shape, rows)
        assert letters(leaf) == rows[0][column], path
        used.add(rows[0])
    assert used == set(TABLE)


@pytest.mark.parametrize("axes", [*MESHES.values(), (8, 8, 1), (4, 64, 1)])
def test_moments_and_the_average_lie_where_their_parameter_lies(axes):
    everything = placed(axes)
    for prefix in ("ema/main/", "opt_state/1/mu/", "opt_state/1/nu/"):
        copies = {n for n in everything if n.startswith(prefix)}
        assert copies == {prefix + path for path in params(axes)}
        for path, leaf in params(axes).items():
            assert everything[prefix + path].sharding == leaf.sharding


def per_device(leaf):
    return leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))


def whole(leaf):
    return leaf.dtype.itemsize * math.prod(leaf.shape)


@pytest.mark.parametrize("axes", [*MESHES.values(), (8, 8, 1), (4, 64, 1)])
def test_no_large_array_is_copied_and_the_state_is_shared_almost_evenly(axes):
    leaves = placed(axes).values()
    copied = [whole(v) for v in leaves if per_device(v) == whole(v)]
    assert max(copied) < 3 * MIB
    _, fsdp, tensor = axes
    total = sum(map(whole, leaves))
    assert total == pytest.approx(4 * 4 * 2.455e9, rel=1e-3)  # four float32 copies
    even = total / (fsdp * tensor)
    # What is copied, and the convolutions that tensor does not split, in four copies.
    assert even <= sum(map(per_device, leaves)) < even + 48 * MIB


def test_heads_that_do_not_divide_are_not_split():
    eight = params((1, 8, 8))
    assert letters(eight["trunk/blocks/attention/qkv/kernel"]) == ". f . . ."
    assert letters(eight["trunk/blocks/attention/out/kernel"]) == ". . f"
    assert letters(eight["trunk/blocks/mlp/dense_1/kernel"]) == ". f t"
