import gc
import itertools
import socket
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from simple_diffusion.core.types import Batch
from simple_diffusion.data import feed


def batch(number, size=8):
    return Batch(
        image=np.full((size, 4, 4, 3), number, np.uint8),
        label=np.arange(size, dtype=np.int32),
        box=np.zeros((size, 4), np.float32),
        mask=np.ones(size, bool),
    )


class Source:
    """Endless numbered batches; remembers how many were taken, and being closed."""

    def __init__(self, seconds=0.0):
        self.taken, self.closed, self.seconds = 0, False, seconds

    def __iter__(self):
        return self

    def __next__(self):
        time.sleep(self.seconds)
        self.taken += 1
        return batch(self.taken - 1)

    def close(self):
        self.closed = True


@pytest.fixture
def sharding():
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"))
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def feed_threads():
    return [t for t in threading.enumerate() if t.name == "feed"]


def test_batches_come_in_order_and_sharded_over_all_devices(sharding):
    with feed.Feed(Source(), sharding) as batches:
        for number, item in enumerate(itertools.islice(batches, 5)):
            assert (np.asarray(item.image) == number).all()
            assert item.label.tolist() == list(range(8))
            for v in (item.image, item.label, item.box, item.mask):
                assert v.sharding.is_equivalent_to(sharding, v.ndim)
                assert v.addressable_shards[0].data.shape[0] == 1


def test_arrays_of_different_rank_may_be_split_differently(sharding):
    rows = NamedSharding(sharding.mesh, PartitionSpec("data", "fsdp"))
    placed = feed.put_on_devices(batch(0), lambda rank: rows if rank == 4 else sharding)
    assert placed.image.addressable_shards[0].data.shape == (2, 2, 4, 3)
    assert placed.label.addressable_shards[0].data.shape == (1,)


def test_batches_are_made_ahead_but_no_further_than_depth(sharding):
    source = Source()
    with feed.Feed(source, sharding, depth=3) as batches:
        next(batches)
        deadline = time.time() + 10
        while source.taken < 5 and time.time() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert source.taken == 5  # one used, three waiting, one at the door


def test_feeding_is_allowed_where_implicit_transfers_are_not(sharding):
    with jax.transfer_guard("disallow"):
        assert feed.put_on_devices(batch(0), sharding).image.shape == (8, 4, 4, 3)


def test_waiting_is_measured(sharding):
    with feed.Feed(Source(seconds=0.1), sharding, depth=1) as batches:
        for _ in range(3):
            next(batches)
        waited = batches.seconds_waited
        assert 0.25 < waited < 3
        time.sleep(0.5)
        next(batches)
        assert batches.seconds_waited - waited < 0.05


def test_an_exception_comes_after_the_batches_before_it(sharding):
    def broken():
        yield batch(0)
        yield batch(1)
        raise OSError("the disk is full")

    batches = feed.Feed(broken(), sharding)
    next(batches), next(batches)
    for _ in range(2):  # and stays
        with pytest.raises(OSError, match="the disk is full"):
            next(batches)
    assert not feed_threads()


def test_a_finite_source_ends(sharding):
    batches = feed.Feed(iter([batch(0), batch(1)]), sharding)
    assert len(list(batches)) == 2
    assert list(batches) == []


def test_closing_stops_the_thread_and_closes_the_source(sharding):
    source = Source()
    batches = feed.Feed(source, sharding)
    next(batches)
    batches.close()
    batches.close()
    assert source.closed and not feed_threads()
    with pytest.raises(StopIteration):
        next(batches)


def test_a_forgotten_feed_closes_itself(sharding):
    source = Source()
    batches = feed.Feed(source, sharding)
    next(batches)
    del batches
    gc.collect()
    assert source.closed and not feed_threads()


def test_closing_wakes_whoever_waits(sharding):
    hold = threading.Event()

    def stuck():
        hold.wait(10)
        yield batch(0)

    batches = feed.Feed(stuck(), sharding)
    ended = []
    waiter = threading.Thread(target=lambda: ended.extend(batches))
    waiter.start()
    closer = threading.Thread(target=batches.close)
    closer.start()
    hold.set()
    closer.join(10), waiter.join(10)
    assert not waiter.is_alive() and len(ended) <= 1


_PROCESS = """
import sys
import jax, numpy as np
port, index = int(sys.argv[1]), int(sys.argv[2])
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=index)
from jax.sharding import NamedSharding, PartitionSpec
from simple_diffusion.data import feed, pipeline
from simple_diffusion.data.sources import catalogue
mesh = jax.make_mesh((4,), ("data",))
sharding = NamedSharding(mesh, PartitionSpec("data"))
source = catalogue.open_source("digits")
options = dict(batch_size=8, size=(8, 8), seed=0, start_step=7)
part = dict(process_index=index, process_count=2)
whole = next(pipeline.train_batches(source, **options))
with feed.Feed(pipeline.train_batches(source, **part, **options), sharding) as batches:
    item = next(batches)
    assert item.image.shape == (8, 8, 8, 3)
    assert len(item.image.addressable_shards) == 2
    for shard in item.image.addressable_shards:
        assert (np.asarray(shard.data) == whole.image[shard.index]).all()

# Rows of pixels split over devices of both processes: each has all examples to give.
devices = np.array(jax.devices()).reshape(2, 2).T
mesh = jax.sharding.Mesh(devices, ("data", "tensor"))
rows, examples = (
    NamedSharding(mesh, PartitionSpec("data", *more)) for more in (["tensor"], [])
)
item = feed.put_on_devices(whole, lambda rank: rows if rank == 4 else examples)
assert item.image.shape == (8, 8, 8, 3) and item.label.shape == (8,)
for shard in item.image.addressable_shards:
    assert shard.data.shape == (4, 4, 8, 3)
    assert (np.asarray(shard.data) == whole.image[shard.index]).all()
jax.distributed.shutdown()
"""


@pytest.mark.slow
def test_two_processes_feed_the_batch_of_one():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        subprocess.Popen([sys.executable, "-c", _PROCESS, str(port), str(k)])
        for k in range(2)
    ]
    assert [p.wait(120) for p in processes] == [0, 0]
