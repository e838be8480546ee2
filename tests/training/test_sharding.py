import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from simple_diffusion.training import sharding
from tests.training import toy


def shape(*dims):
    return jax.ShapeDtypeStruct(dims, jnp.float32)


def specs(tree, mesh, rules):
    return jax.tree.map(lambda s: s.spec, sharding.state_shardings(tree, mesh, rules))


def test_one_axis_may_be_the_rest():
    assert dict(sharding.make_mesh(fsdp=2).shape) == {"data": 4, "fsdp": 2, "tensor": 1}
    assert dict(sharding.make_mesh(2, -1, 2).shape) == {
        "data": 2,
        "fsdp": 2,
        "tensor": 2,
    }


def test_one_device_is_a_mesh_too():
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    assert dict(mesh.shape) == {"data": 1, "fsdp": 1, "tensor": 1}


@pytest.mark.parametrize("axes", [(3, 1, 1), (-1, -1, 1), (-1, 3, 1), (0, 8, 1)])
def test_a_mesh_that_does_not_cover_the_devices_is_refused(axes):
    with pytest.raises(ValueError, match="does not cover 8 devices"):
        sharding.make_mesh(*axes)


def test_fsdp_splits_the_largest_axis_that_divides():
    mesh = sharding.make_mesh(1, 8, 1)
    tree = {"a": shape(16, 64), "b": shape(64, 20), "c": shape(9, 1001), "d": shape()}
    assert specs(tree, mesh, ((".*", sharding.fsdp(min_size=0)),)) == {
        "a": PartitionSpec(None, "fsdp"),
        "b": PartitionSpec("fsdp", None),
        "c": PartitionSpec(None, None),
        "d": PartitionSpec(),
    }


def test_small_arrays_are_copied():
    mesh = sharding.make_mesh(1, 8, 1)
    rule = sharding.fsdp(min_size=100)
    assert rule((8, 8), mesh) == PartitionSpec(None, None)
    assert rule((8, 16), mesh) == PartitionSpec(None, "fsdp")


def test_a_tensor_rule_splits_the_named_axis_and_another_one():
    mesh = sharding.make_mesh(2, 2, 2)
    rule = sharding.tensor(-1, min_size=0)
    assert rule((4, 64), mesh) == PartitionSpec("fsdp", "tensor")
    assert rule((6, 4, 64), mesh) == PartitionSpec("fsdp", None, "tensor")
    assert rule((4, 7), mesh) == PartitionSpec("fsdp", None)


def test_an_axis_of_merged_heads_is_split_between_heads_only():
    rules = (
        ("qkv", sharding.tensor(-3, min_size=0)),
        ("out", sharding.tensor(-2, "../../qkv/bias", min_size=0)),
    )

    def split(heads, mesh):
        qkv = {"kernel": shape(24, heads, 3, 24 // heads), "bias": shape(heads, 3, 1)}
        tree = {"attention": {"qkv": qkv, "out": {"kernel": shape(24, 24)}}}
        placed = specs(tree, mesh, rules)["attention"]
        return "tensor" in placed["qkv"]["kernel"], "tensor" in placed["out"]["kernel"]

    four, two = sharding.make_mesh(2, 1, 4), sharding.make_mesh(2, 2, 2)
    assert split(4, four) == split(8, four) == split(6, two) == (True, True)
    # 24 features divide by four, two or six heads do not.
    assert split(2, four) == split(6, four) == (False, False)


def test_the_default_rules_split_pairs_of_layers_between_heads_and_hidden_units():
    """The first map of each pair by its outputs, the second one by its inputs."""
    heads, d, c = 4, 6, 24
    block = {
        "attention": {
            "qkv": {"kernel": shape(c, heads, 3, d), "bias": shape(heads, 3, d)},
            "out": {"kernel": shape(c, c)},
        },
        "cross_attention": {
            "q": {"kernel": shape(c, heads, d), "bias": shape(heads, d)},
            "kv": {"kernel": shape(8, heads, 2, d), "bias": shape(heads, 2, d)},
            "null": shape(heads, 2, d),
            "out": {"kernel": shape(c, c)},
        },
        "mlp": {
            "dense_1": {"kernel": shape(c, 4 * c), "bias": shape(4 * c)},
            "dense_2": {"kernel": shape(4 * c, c)},
        },
    }
    rules = sharding.default_rules(min_size=0)
    placed = specs(block, sharding.make_mesh(4, 1, 2), rules)
    split = PartitionSpec
    assert placed["attention"] == {
        "qkv": {
            "kernel": split(None, "tensor", None, None),
            "bias": split("tensor", None, None),
        },
        "out": {"kernel": split("tensor", None)},
    }
    assert placed["cross_attention"] == {
        "q": {
            "kernel": split(None, "tensor", None),
            "bias": split("tensor", None),
        },
        "kv": {
            "kernel": split(None, "tensor", None, None),
            "bias": split("tensor", None, None),
        },
        "null": split("tensor", None, None),
        "out": {"kernel": split("tensor", None)},
    }
    assert placed["mlp"] == {
        "dense_1": {"kernel": split(None, "tensor"), "bias": split("tensor")},
        "dense_2": {"kernel": split("tensor", None)},
    }


def test_the_stack_of_blocks_is_never_split_and_a_rule_sees_one_block():
    mesh = sharding.make_mesh(1, 8, 1)
    tree = {"blocks": {"kernel": shape(64, 16, 8), "bias": shape(64, 100)}}
    rules = ((".*", sharding.fsdp(min_size=101)),)
    assert specs(tree, mesh, rules) == {
        "blocks": {
            "kernel": PartitionSpec(None, "fsdp", None),
            "bias": PartitionSpec(None, None),
        }
    }


def test_the_first_pattern_that_is_found_wins():
    mesh = sharding.make_mesh(1, 8, 1)
    rules = (("bias$", sharding.replicate), (".*", sharding.fsdp(min_size=0)))
    tree = {"layer": {"bias": shape(64), "kernel": shape(64)}}
    assert specs(tree, mesh, rules) == {
        "layer": {"bias": PartitionSpec(), "kernel": PartitionSpec("fsdp")}
    }


def test_an_array_without_a_rule_is_named():
    with pytest.raises(ValueError, match="no sharding rule matches layer/kernel"):
        sharding.state_shardings(
            {"layer": {"kernel": shape(2)}},
            sharding.make_mesh(),
            (("bias$", sharding.replicate),),
        )


def test_moments_and_averages_lie_where_their_parameter_lies():
    mesh = sharding.make_mesh(1, 4, 2)
    rules = (
        (r"outer/kernel$", sharding.tensor(-2, min_size=0)),
        (r".*", sharding.fsdp(min_size=0)),
    )
    placed = toy.blueprint(mesh, rules).shardings
    moments = next(
        s for s in jax.tree.leaves(placed.opt_state, is_leaf=has_mu) if has_mu(s)
    )
    for tree in [moments.mu, moments.nu, *placed.ema.values()]:
        assert tree == placed.params
    used = {axis for s in jax.tree.leaves(placed.params) for axis in s.spec}
    assert used == {"fsdp", "tensor", None}


def has_mu(node):
    return hasattr(node, "mu")


def test_a_batch_is_split_over_data_and_fsdp_and_copied_over_tensor():
    mesh = sharding.make_mesh(2, 2, 2)
    x = jax.device_put(np.arange(8), sharding.batch_sharding(mesh))
    assert x.sharding.shard_shape(x.shape) == (2,)
    held = [s.data.tolist() for s in x.addressable_shards]
    assert sorted(held) == [[k, k + 1] for k in (0, 0, 2, 2, 4, 4, 6, 6)]


@pytest.mark.parametrize("split_rows", [False, True])
def test_rows_of_pixels_are_split_over_tensor_if_asked(split_rows):
    mesh = sharding.make_mesh(2, 2, 2)
    place = sharding.batch_shardings(mesh, split_rows)
    assert place(4).shard_shape((8, 6, 6, 3)) == (2, 3 if split_rows else 6, 6, 3)
    assert place(1).shard_shape((8,)) == (2,)
    assert place(2).shard_shape((8, 4)) == (2, 4)


def test_one_process_reads_whole_batches():
    for axes in [(8, 1, 1), (2, 2, 2), (1, 1, 8)]:
        assert sharding.data_shard(sharding.make_mesh(*axes)) == (0, 1)


def test_a_mesh_goes_over_slices_as_the_devices_say():
    # Eight devices of one process are one slice.
    assert sharding.make_mesh(slices=-1) == sharding.make_mesh()
    with pytest.raises(ValueError, match="mesh.slices=2 does not divide the 1 slices"):
        sharding.make_mesh(slices=2)
