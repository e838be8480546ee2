"""The paper model of many devices: limits of its formulas, counts against programs."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest

from benchmarks import (
    devices,
    recipe,
    scaling_check,
    scaling_model,
    step_time,
    workload,
)
from benchmarks.scaling_model import Assumed
from benchmarks.step_time import Mesh
from simple_diffusion.training.state import TrainState

pytestmark = pytest.mark.slow

H100, V5E, V5P = (devices.TABLE[name] for name in ("h100", "v5e", "v5p"))
COMMUNICATION = (step_time.gather, step_time.all_reduce)


@pytest.mark.parametrize("function", COMMUNICATION)
@pytest.mark.parametrize("device", devices.TABLE.values())
def test_one_device_sends_nothing(function, device):
    for axis in ("data", "fsdp", "tensor"):
        assert function(1e9, Mesh(), axis, device) == 0


def test_gathering_takes_each_device_the_parts_of_all_others():
    # Within one host, where a switch gives every device all of its link.
    for n in (2, 4, 8):
        seconds = step_time.gather(1e9, Mesh(fsdp=n), "fsdp", H100)
        assert seconds == pytest.approx(1e9 / 450e9 * (n - 1) / n)


def test_a_sum_is_a_scatter_and_a_gather():
    mesh = Mesh(fsdp=8)
    once = step_time.gather(1e9, mesh, "fsdp", H100)
    assert step_time.all_reduce(1e9, mesh, "fsdp", H100) == 2 * once


@pytest.mark.parametrize("mesh", [Mesh(fsdp=8), Mesh(fsdp=64), Mesh(4, 8, 2)])
@pytest.mark.parametrize("device", devices.TABLE.values())
def test_twice_the_bandwidth_is_half_the_time(mesh, device):
    faster = dataclasses.replace(
        device, link=2 * device.link, network=2 * device.network
    )
    for axis in ("data", "fsdp", "tensor"):
        slow, fast = (step_time.gather(1e9, mesh, axis, d) for d in (device, faster))
        assert fast == pytest.approx(slow / 2)


def test_many_hosts_are_as_fast_as_all_their_network_cards_together():
    # In the limit each host receives the whole array, over eight cards of 50 GB/s.
    seconds = step_time.gather(1e9, Mesh(fsdp=2**20), "fsdp", H100)
    assert seconds == pytest.approx(1e9 / (8 * 50e9), rel=1e-3)


def test_a_group_that_has_one_device_of_each_host_has_one_card_each():
    seconds = step_time.gather(1e9, Mesh(data=2, fsdp=8), "data", H100)
    assert seconds == pytest.approx(1e9 / 2 / 50e9)


def test_the_axes_of_a_torus_are_shared_and_lines_are_half_as_fast():
    assert step_time.link(Mesh(fsdp=256), "fsdp", V5E) == V5E.link
    assert step_time.link(Mesh(1, 64, 4), "fsdp", V5E) == V5E.link / 2
    assert step_time.link(Mesh(fsdp=64), "fsdp", V5E) == V5E.link / 2
    assert step_time.link(Mesh(1, 64, 4), "fsdp", V5P) == pytest.approx(
        V5P.link * 2 / 3
    )


def test_between_slices_the_network_carries_the_sum():
    # Two pods: each chip sums its shard with one other, over its own network.
    mesh = Mesh(data=2, fsdp=256)
    seconds = step_time.all_reduce(1e6, mesh, "data", V5E)
    assert seconds == pytest.approx(2 * 1e6 / 2 / V5E.network)


def test_what_overlaps_is_hidden_as_far_as_there_is_computation():
    assert step_time.exposed(3.0, 10.0, overlap=0.0) == 3.0
    assert step_time.exposed(3.0, 10.0, overlap=1.0) == 0.0
    assert step_time.exposed(3.0, 1.0, overlap=1.0) == 2.0
    assert step_time.exposed(3.0, 0.0, overlap=1.0) == 3.0


def test_a_checkpoint_stops_steps_for_its_copy_or_until_the_one_before_is_written():
    copy = 16e9 / V5E.to_host
    quick = step_time.checkpoint(16e9, 100e9, V5E, write_bandwidth=1e9, interval=1000)
    assert quick == pytest.approx(copy)
    late = step_time.checkpoint(16e9, 100e9, V5E, write_bandwidth=1e9, interval=60)
    assert late == pytest.approx(copy + 40)


def test_hosts_share_the_making_of_a_batch():
    assert step_time.feed(2000, 1, V5E, images_per_second=1000) == 2.0
    assert step_time.feed(2000, 256, V5E, images_per_second=1000) == 2.0 / 32


def tiny(**changes) -> dict:
    loop = {"model.scan_unroll": 1}
    return recipe.changed(scaling_check.small(width=16, side=16), loop | changes)


def test_the_operations_of_blocks_are_those_that_a_deeper_network_has_more():
    of = [workload.operations(tiny(**{"model.trunk_blocks": n})) for n in (1, 2)]
    (blocks,) = workload.transformer(tiny())
    block = blocks._replace(count=1).operations
    # The embedding's modulation of one block is one product with one row.
    film = 3 * 2 * 64 * 2 * 4 * 64
    assert of[1] - of[0] == block + film


def test_recomputing_everything_costs_less_than_another_forward_pass():
    none, full = (
        workload.operations(workload.with_policy(tiny(), policy))
        for policy in ("none", "full")
    )
    assert none < full < 4 / 3 * none


def test_every_policy_keeps_less_than_none_and_full_least():
    kept = {
        policy: workload.kept(workload.with_policy(tiny(), policy)).per_image
        for policy in workload.POLICIES
    }
    assert kept["full"] == min(kept.values())
    assert kept["none"] == max(kept.values())


def test_maps_of_four_times_the_pixels_keep_about_four_times_the_bytes():
    small, large = (
        workload.kept(tiny(**{"data.resolution": side})).per_image for side in (32, 64)
    )
    # Weights of attention grow sixteenfold, vectors not at all.
    assert 3.5 < large / small < 6


@pytest.mark.parametrize("mesh", scaling_check.MESHES[1:3])
def test_the_bytes_of_a_device_are_those_of_the_compiled_program(mesh):
    found = scaling_check.compared(tiny(), mesh)["held"]
    assert found["model"] == found["compiled"]


def test_all_shards_of_a_state_that_divides_are_the_state():
    abstract = workload.abstract_state(scaling_check.small(width=128))
    whole = workload.state_bytes(abstract, Mesh())
    assert whole == sum(
        math.prod(v.shape) * v.dtype.itemsize for v in jax.tree.leaves(abstract)
    )
    shard = workload.state_bytes(abstract, Mesh(fsdp=8))
    assert whole / 8 < shard < 1.02 * whole / 8  # biases and scales are copied
    # Copies along `data` are whole.
    assert workload.state_bytes(abstract, Mesh(data=8)) == whole


@pytest.fixture
def counted() -> scaling_model.Counted:
    """A network of round numbers: 1 M parameters, 3 and 4 GFLOP an image."""
    params = {"kernel": jax.ShapeDtypeStruct((1024, 1024), jnp.float32)}
    number = jax.ShapeDtypeStruct((), jnp.int32)
    opt_state = {"mu": params, "nu": params}
    return scaling_model.Counted(
        abstract=TrainState(
            number, params, {"main": params}, opt_state, number, number
        ),
        parameters=2**20,
        averages=1,
        operations={name: 3 * 10**9 for name in workload.POLICIES}
        | {"full": 4 * 10**9},
        kept={name: workload.Kept(4_000_000, 0) for name in workload.POLICIES}
        | {"full": workload.Kept(1_000_000, 0)},
        working=1_000_000,
        blocks=(workload.Blocks(width=256, tokens=64, heads=4, count=2),),
    )


def time_of(counted, mesh=Mesh(), device=H100, images=4, **assumed):  # noqa: B008
    there = scaling_model.held(counted, mesh)
    return scaling_model.seconds(
        counted, mesh, there, "none", images, 1, device, Assumed(**assumed)
    )


def test_on_one_device_a_step_is_its_computation_and_its_update(counted):
    found = time_of(counted, images_per_second=1e12, save_every=10**9)
    operations = 4 * counted.operations["none"]
    assert found["compute"] == pytest.approx(operations / (0.5 * H100.flops))
    assert found["exposed"] == found["tensor"] == 0
    # Gradient, parameter, two moments, average read, the last four written.
    assert found["update"] == pytest.approx(9 * 4 * 2**20 / H100.bandwidth)
    assert found["step"] == pytest.approx(found["compute"] + found["update"], rel=1e-6)


def test_slow_input_decides_the_step(counted):
    found = time_of(counted, images_per_second=1.0, save_every=10**9)
    assert found["step"] == pytest.approx(4.0)


def test_better_devices_are_never_slower(counted):
    mesh = Mesh(2, 8, 2)
    step = time_of(counted, mesh)["step"]
    for better in ("flops", "bandwidth", "link", "network", "to_host"):
        changed = {better: 2 * getattr(H100, better)}
        device = dataclasses.replace(H100, **changed)
        assert time_of(counted, mesh, device)["step"] <= step, better
    assert time_of(counted, mesh, overlap=1.0)["step"] <= step
    assert time_of(counted, mesh, utilisation=1.0)["step"] <= step


def test_what_fits_fits_and_is_sorted_and_covers_the_devices(counted):
    # A state of 16 MiB and 4 of gradients: whole on a device, they leave no room.
    device = dataclasses.replace(H100, memory=20e6)
    assumed = Assumed(memory_share=0.9)
    fit, too_large = scaling_model.candidates(counted, device, 8, 32, assumed)
    assert fit and too_large
    assert {it.mesh.fsdp for it in too_large} == {1}
    steps = [it.seconds["step"] for it in fit]
    assert steps == sorted(steps)
    for it in fit + too_large:
        assert it.mesh.size == 8
        assert it.images * it.accumulate * it.mesh.data * it.mesh.fsdp == 32
        assert (it.bytes <= 18e6) == (it in fit)
    assert all(it.images == 1 for it in too_large)


def test_the_tensor_axis_splits_heads_and_stays_on_an_island(counted):
    found = list(scaling_model.meshes(64, H100, counted.blocks))
    assert {mesh.tensor for mesh in found} == {1, 2, 4}  # of four heads
    assert {m.tensor for m in scaling_model.meshes(64, H100, ())} == {1}
    assert all(mesh.size == 64 for mesh in found)
    # On TPUs parameters are not gathered over slices.
    over = scaling_model.meshes(512, V5E, counted.blocks)
    assert max(m.fsdp * m.tensor for m in over) == 256


def test_a_network_of_the_published_widths_can_be_planned_for(no_shape_checks):
    # The one with levels of both kinds; each takes minutes to compile. Depth would only
    # add time.
    tree = recipe.load("configs/imagenet512.py:sid2")
    tree["model"]["blocks"] = (1,) * len(tree["model"]["blocks"])
    tree["model"]["dtype"] = "bfloat16"
    counted = scaling_model.count(tree)
    device = devices.TABLE["v5e"]
    fit, _ = scaling_model.candidates(counted, device, 256, 2048, Assumed())
    assert fit
