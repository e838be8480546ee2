"""Devices that stand in slices, and the rows that processes read, without a cluster."""

import dataclasses

import numpy as np
import pytest

from simple_diffusion.training import topology
from simple_diffusion.training.topology import Shard


@dataclasses.dataclass(frozen=True)
class Card:
    """A device that knows only its process."""

    id: int
    process_index: int
    platform: str = "other"
    device_kind: str = "card"


@dataclasses.dataclass(frozen=True)
class Chip(Card):
    """A device that knows its slice."""

    slice_index: int = 0


def chips(slices, per_slice=4):
    """Returns the chips of some slices, in no order, two to a process."""
    count = slices * per_slice
    made = [Chip(k, k // 2, slice_index=k // per_slice) for k in range(count)]
    return [made[k] for k in np.random.default_rng(0).permutation(len(made))]


def cards(processes, per_process=4):
    return [Card(k, k // per_process) for k in range(processes * per_process)]


def places(array, key):
    return np.vectorize(lambda device: getattr(device, key))(array)


@pytest.mark.parametrize("slices", [-1, 2])
def test_the_data_axis_goes_over_slices_and_the_others_stay_inside(slices):
    mesh = topology.arrange_devices(chips(2), (4, 2, 1), slices)
    assert mesh.shape == (4, 2, 1)
    assert places(mesh, "slice_index")[..., 0].tolist() == [[0] * 2] * 2 + [[1] * 2] * 2
    assert sorted(places(mesh, "id").flat) == list(range(8))


def test_devices_that_know_no_slice_stand_together_by_process():
    mesh = topology.arrange_devices(cards(4), (4, 2, 2), -1)
    assert places(mesh, "process_index").reshape(4, 4).tolist() == [
        [k] * 4 for k in range(4)
    ]
    # Two processes to a slice.
    groups = topology.group_by_slice(cards(4), 2)
    assert [{d.process_index for d in group} for group in groups] == [{0, 1}, {2, 3}]


def test_without_slices_devices_stay_in_their_order():
    mesh = topology.arrange_devices(cards(2), (1, 4, 2), 1)
    assert places(mesh, "id").flatten().tolist() == list(range(8))


def test_a_data_axis_that_cannot_go_over_the_slices_names_it():
    with pytest.raises(ValueError, match="mesh.data=1 must be a multiple of the 2 sli"):
        topology.arrange_devices(chips(2), (1, 8, 1), -1)


@pytest.mark.parametrize("slices", [3, 4, 0, -2])
def test_a_number_of_slices_that_the_devices_do_not_have_is_refused(slices):
    with pytest.raises(ValueError, match=f"mesh.slices={slices} does not divide the 2"):
        topology.group_by_slice(chips(2), slices)


def test_slices_of_unequal_size_are_refused():
    with pytest.raises(ValueError, match=r"unequal numbers of devices, \[4, 3\]"):
        topology.group_by_slice(cards(2)[:7], -1)


def test_slices_of_tpus_must_be_named():
    devices = [dataclasses.replace(chip, platform="tpu") for chip in chips(2)]
    with pytest.raises(ValueError, match="in 2 slices; set mesh.slices=-1"):
        topology.group_by_slice(devices, 1)
    assert len(topology.group_by_slice(devices, -1)) == 2


def shares(owners):
    """Returns the share of each process; `owners` is [rows, copies] of processes."""
    held = [(p, row) for row, copies in enumerate(owners) for p in copies]
    processes = sorted({p for p, _ in held})
    return [topology.shard_of(held, p) for p in processes]


def test_processes_that_hold_other_rows_read_other_parts():
    assert shares([[0], [0], [1], [1]]) == [Shard(0, 2), Shard(1, 2)]
    # Numbered by rows, whatever the number of the process.
    assert shares([[1], [1], [0], [0]]) == [Shard(1, 2), Shard(0, 2)]


def test_processes_that_hold_the_same_rows_read_the_same_part():
    assert shares([[0, 1], [0, 1]]) == [Shard(0, 1)] * 2
    assert shares([[0, 1], [2, 3]]) == [Shard(0, 2)] * 2 + [Shard(1, 2)] * 2


def test_the_rows_of_a_process_need_not_follow_one_another():
    # As on a torus of chips, of which a host has a square.
    assert shares([[0], [1], [0], [1]]) == [Shard(0, 2), Shard(1, 2)]


@pytest.mark.parametrize("owners", [[[0, 0], [0, 1], [1, 1]], [[0], [0], [1]]])
def test_parts_that_overlap_or_differ_in_size_name_the_axis(owners):
    with pytest.raises(ValueError, match="mesh.tensor must divide the devices"):
        shares(owners)
