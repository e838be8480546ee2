import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from simple_diffusion.core.examples import Example
from simple_diffusion.data import patches, pipeline
from simple_diffusion.data.errors import DataError
from simple_diffusion.data.sources import catalogue, protocols
from tests.data.test_skipping import Numbered

SEED = 3


def train(source, **options):
    defaults = dict(batch_size=4, size=(4, 4), seed=SEED)
    return pipeline.train_batches(source, **(defaults | options))


def take(batches, count):
    result = [next(batches) for _ in range(count)]
    batches.close()
    return result


def numbers(batches):
    """Returns which examples of `Numbered` the batches hold."""
    return [b.image[:, 0, 0, 0].tolist() for b in batches]


def leaves(batch):
    return jax.tree.leaves(batch)


def same(a, b):
    return all((x == y).all() for x, y in zip(leaves(a), leaves(b), strict=True))


class Slow(Numbered):
    """Takes longest over the examples that come first."""

    def read(self, index, resolution):
        time.sleep(0.002 * (self.length - index) / self.length)
        return super().read(index, resolution)


class Noise(Numbered):
    """Pictures larger than wanted and not square, so that crops and flips show."""

    def read(self, index, resolution):
        rng = np.random.default_rng(index)
        self.reads.append(index)
        return Example(rng.integers(0, 256, (9, 13, 3), dtype=np.uint8))


class Together(Noise):
    """The same pictures cut to squares, all at once."""

    def read_batch(self, indices, size, window=None):
        images = [self.read(int(k), size[0]).image[:, :9] for k in indices]
        return protocols.Examples(np.stack(images), np.zeros(len(indices), np.int64))


class Apart(Noise):
    """The same squares one by one."""

    def read(self, index, resolution):
        return Example(super().read(index, resolution).image[:, :9])


def test_a_batch_is_uint8_images_with_labels_boxes_and_mask():
    source = Numbered(10, class_names=("a", "b"), label=1)
    (batch,) = take(train(source), 1)
    assert batch.image.shape == (4, 4, 4, 3) and batch.image.dtype == np.uint8
    assert batch.label.tolist() == [1] * 4 and batch.label.dtype == np.int32
    assert batch.box.tolist() == [[0, 0, 1, 1]] * 4 and batch.box.dtype == np.float32
    assert batch.mask.tolist() == [True] * 4


def test_every_epoch_holds_each_example_once_in_another_order():
    epochs = np.array(numbers(take(train(Numbered(12)), 9))).reshape(3, 12)
    assert (np.sort(epochs) == np.arange(12)).all()
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 3


def test_an_epoch_may_end_inside_a_batch():
    stream = np.ravel(numbers(take(train(Numbered(7)), 7)))
    assert (np.sort(stream.reshape(4, 7)) == np.arange(7)).all()


@pytest.mark.parametrize("source", [Noise(50), Together(50)])
def test_resuming_at_a_step_equals_reaching_it(source):
    options = dict(crop="random", flip=True)
    whole = take(train(source, **options), 6)
    resumed = take(train(source, start_step=4, **options), 2)
    assert all(map(same, whole[4:], resumed))
    far = take(train(source, start_step=999_998, **options), 3)
    (one,) = take(train(source, start_step=1_000_000, **options), 1)
    assert same(far[2], one)


def test_resuming_late_reads_no_more_and_takes_no_longer_than_starting():
    seconds = {}
    for start_step in (0, 1_000_000):
        source = Noise(10_000)
        start = time.perf_counter()
        take(train(source, start_step=start_step), 1)
        seconds[start_step] = time.perf_counter() - start
        assert len(source.reads) < 200
    # Reading a million batches would take minutes.
    assert seconds[1_000_000] < 10 * seconds[0] + 2


def test_the_order_does_not_depend_on_how_long_reading_takes():
    expected = numbers(take(train(Numbered(60), batch_size=30), 3))
    assert numbers(take(train(Slow(60), batch_size=30), 3)) == expected


def test_seeds_give_different_orders_crops_and_flips():
    a, b = (take(train(Noise(40), seed=s, crop="random"), 1)[0] for s in (1, 2))
    assert not (a.image == b.image).all()
    plain, flipped = (take(train(Noise(40), flip=f), 1)[0] for f in (False, True))
    mirrored = (plain.image != flipped.image).any((1, 2, 3))
    assert mirrored.any()
    assert (plain.image[mirrored][:, :, ::-1] == flipped.image[mirrored]).all()


@pytest.mark.parametrize("source", [Noise(50), Together(50)])
@pytest.mark.parametrize("count", [2, 4])
def test_the_parts_of_all_processes_are_the_batch_of_one(source, count):
    options = dict(batch_size=8, crop="random", flip=True, start_step=5)
    whole = take(train(source, **options), 3)
    parts = [
        take(train(source, process_index=k, process_count=count, **options), 3)
        for k in range(count)
    ]
    for step, batch in enumerate(whole):
        images = [part[step].image for part in parts]
        assert all(len(image) == 8 // count for image in images)
        assert (np.concatenate(images) == batch.image).all()


def test_reading_whole_batches_equals_reading_one_by_one():
    options = dict(size=(5, 5), crop="random", flip=True)
    together = take(train(Together(50), **options), 3)
    assert all(map(same, together, take(train(Apart(50), **options), 3)))
    together = list(evaluate(Together(5)))
    assert all(map(same, together, evaluate(Apart(5))))


def test_scenes_and_digits_run_through_the_pipeline():
    for name in ("scenes", "digits"):
        source = catalogue.open_source(name)
        (batch,) = take(train(source, size=(16, 16)), 1)
        assert batch.image.shape == (4, 16, 16, 3)
        assert len(np.unique(batch.image)) > 10


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_images_may_have_any_number_of_channels(channels):
    source = Numbered(6, bad={2})
    source.channels = channels
    distribution = patches.PatchDistribution(patch=3, smallest=3, largest=5)
    (batch,) = take(train(source, size=(2, 5), flip=True), 1)
    assert batch.image.shape == (4, 2, 5, channels)
    (patch,) = take(train(source, size=None, patches=distribution), 1)
    assert patch.image.shape == (4, 3, 3, channels)
    for b in (batch, patch):  # `Numbered`: all values of an image are its number
        assert (b.image == b.image[:, :1, :1, :1]).all()
    held_out = list(evaluate(source, size=(5, 3)))
    assert [b.image.shape for b in held_out] == [(4, 5, 3, channels)] * 2
    assert sorted(kept(held_out)) == [0, 1, 3, 4, 5]


def test_bad_images_are_replaced_the_same_way_at_every_resume():
    batches = train(Numbered(12, bad={2, 3, 7}))
    whole = [next(batches) for _ in range(6)]
    assert batches.bad_count == 3
    assert not {2, 3, 7} & set(np.ravel(numbers(whole)))
    resumed = take(train(Numbered(12, bad={2, 3, 7}), start_step=3), 3)
    assert all(map(same, whole[3:], resumed))


def test_when_all_images_are_bad_the_error_is_ours():
    with pytest.raises(DataError, match="none of the 5 images can be read"):
        take(train(Numbered(5, bad=range(5))), 1)


@pytest.mark.parametrize("kind", [Noise, Together])
def test_an_exception_in_a_source_comes_out_as_it_went_in(kind, capfd):
    class Broken(kind):
        def read(self, index, resolution):
            raise FileNotFoundError("the disk is gone")

    batches = train(Broken(10))
    with pytest.raises(FileNotFoundError, match="^the disk is gone$"):
        next(batches)
    with pytest.raises(StopIteration):
        next(batches)
    assert "gone" not in capfd.readouterr().err  # no traceback from TensorFlow


def test_batches_before_an_error_still_come():
    class Labelled(Numbered):
        def read(self, index, resolution):
            image = super().read(index, resolution).image
            return Example(image, 5 if index == wrong else 0)

    stream = np.ravel(numbers(take(train(Numbered(40)), 10)))
    wrong = int(stream[30])
    batches = train(Labelled(40, class_names=("a",)))
    assert np.ravel(numbers([next(batches) for _ in range(7)])).tolist() == list(
        stream[:28]
    )
    with pytest.raises(DataError, match=f"data.source: example {wrong} has label 5"):
        next(batches)


def test_a_batch_that_processes_cannot_share_is_an_error_that_names_the_key():
    with pytest.raises(DataError, match="train.batch_size=4 .* multiple of the 3"):
        train(Numbered(5), process_count=3)


def evaluate(source, **options):
    defaults = dict(batch_size=4, size=(4, 4))
    return pipeline.eval_batches(source, **(defaults | options))


def kept(batches):
    return [n for b in batches for n in b.image[b.mask][:, 0, 0, 0].tolist()]


@pytest.mark.parametrize("length", [1, 4, 11])
def test_an_evaluation_sees_each_example_once_in_full_batches(length):
    batches = list(evaluate(Numbered(length)))
    assert sorted(kept(batches)) == list(range(length))
    assert all(len(b.image) == 4 for b in batches)
    assert len(batches) == -(-length // 4)


def test_an_evaluation_of_some_examples_sees_the_same_fair_sample_each_time():
    some = kept(evaluate(Numbered(200), count=21))
    assert len(set(some)) == 21 and some == kept(evaluate(Numbered(200), count=21))
    assert some == kept(evaluate(Numbered(200)))[:21]
    assert min(some) < 70 and max(some) > 130


def test_processes_share_an_evaluation_in_equally_many_batches():
    parts = [
        list(evaluate(Numbered(9), process_index=k, process_count=2)) for k in range(2)
    ]
    assert len(parts[0]) == len(parts[1]) == 3
    assert sorted(kept(parts[0]) + kept(parts[1])) == list(range(9))


def test_an_evaluation_masks_bad_images_instead_of_counting_others_twice():
    batches = evaluate(Numbered(9, bad={0, 5}))
    assert sorted(kept(list(batches))) == [1, 2, 3, 4, 6, 7, 8]
    assert batches.bad_count == 2


@pytest.mark.slow
def test_a_program_can_end_while_batches_are_being_made():
    script = """
import numpy as np
from simple_diffusion.core.examples import Example
from simple_diffusion.data import pipeline
class Plain:
    class_names, fields, channels = (), frozenset({"image"}), 3
    def __len__(self):
        return 100
    def read(self, index, resolution):
        return Example(np.zeros((resolution, 2 * resolution, 3), np.uint8))
options = dict(batch_size=64, size=(64, 64), seed=0, crop="random")
batches = pipeline.train_batches(Plain(), **options)
next(batches)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_an_evaluation_can_begin_in_its_middle():
    rest = list(evaluate(Numbered(11), start=3))
    assert kept(rest) == kept(evaluate(Numbered(11)))[3:]
    assert [len(b.image) for b in rest] == [4, 4]


def test_single_examples_of_an_evaluation_are_those_of_the_pass():
    order = kept(evaluate(Numbered(11)))
    batch = pipeline.eval_examples(Numbered(11), [10, 0, 4], size=(4, 4))
    found = batch.image[:, 0, 0, 0].tolist()
    assert found == [order[10], order[0], order[4]]
    bad = pipeline.eval_examples(Numbered(11, bad={order[0]}), [0, 1], size=(4, 4))
    assert bad.mask.tolist() == [False, True]
