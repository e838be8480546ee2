import numpy as np
import pytest

from simple_diffusion.core.examples import Example
from simple_diffusion.data import skipping
from simple_diffusion.data.errors import BadImage, DataError


class Numbered:
    """Example k is a picture of the number k; some are bad."""

    fields = frozenset({"image", "label"})
    channels = 3

    def __init__(self, length, bad=(), class_names=(), label=0):
        self.class_names = class_names
        self.length, self.bad, self.label = length, set(bad), label
        self.reads = []

    def __len__(self):
        return self.length

    def read(self, index, resolution):
        self.reads.append(index)
        if index in self.bad:
            raise BadImage(f"{index}.png", "torn")
        image = np.full((resolution, resolution, self.channels), index, np.uint8)
        return Example(image, self.label)


def make_readers(source):
    """Returns a `SkippingReader` and its two ways to read (label, number)."""
    reader = skipping.SkippingReader(source)

    def label_and_number(example):
        return example and (example.label, int(example.image[0, 0, 0]))

    def read(index):
        return source.read(index, 4)

    def read_or_next(index):
        return label_and_number(reader.read_or_next(index, read))

    def read_or_none(index):
        return label_and_number(reader.read_or_none(index, read))

    return reader, read_or_next, read_or_none


def test_a_bad_image_is_replaced_by_the_next_good_one():
    _, read_or_next, _ = make_readers(Numbered(6, bad={1, 2, 5}))
    replaced = [read_or_next(k)[1] for k in range(6)]
    assert replaced == [0, 3, 3, 3, 4, 0]


def test_a_bad_image_can_be_left_out_instead():
    _, _, read_or_none = make_readers(Numbered(3, bad={1}))
    assert read_or_none(1) is None
    assert read_or_none(2) == (0, 2)


def test_each_bad_file_is_named_once_counted_once_and_read_once(capsys):
    source = Numbered(4, bad={1, 2})
    reader, read_or_next, _ = make_readers(source)
    for _ in range(3):
        for k in range(4):
            read_or_next(k)
    assert reader.bad_count == 2
    said = [
        "data.source: skipped an image: 1.png: torn",
        "data.source: skipped an image: 2.png: torn",
        "data.source: 2 of 4 images skipped, 2 are used",
    ]
    assert capsys.readouterr().out.splitlines() == said
    assert source.reads.count(1) == source.reads.count(2) == 1
    make_readers(source)[1](1)  # another pass over the same images
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("method", [1, 2])
def test_when_all_images_are_bad_that_is_an_error(method):
    read = make_readers(Numbered(3, bad={0, 1, 2}))[method]
    with pytest.raises(
        DataError, match="data.source: none of the 3 images can be read"
    ):
        for k in range(3):
            read(k)
    with pytest.raises(DataError, match="none of the 3"):  # again, and without end
        read(0)


@pytest.mark.parametrize("class_names, label", [(("a", "b"), 2), (("a",), -1), ((), 1)])
def test_a_label_out_of_range_is_an_error_that_names_the_key(class_names, label):
    source = Numbered(3, class_names=class_names, label=label)
    _, read_or_next, _ = make_readers(source)
    with pytest.raises(DataError, match=f"data.source: example 2 has label {label}"):
        read_or_next(2)


def test_a_source_without_examples_is_an_error():
    with pytest.raises(DataError, match="data.source: holds no examples"):
        skipping.SkippingReader(Numbered(0))


def test_images_too_small_for_a_setting_are_counted_and_reported_once(capsys):
    small = skipping.SmallImageCounter()
    for index in (3, 5, 3):
        small.record(index, f"{index}.png is small")
    assert small.count == 2
    assert capsys.readouterr().out == "3.png is small (images so far: 1)\n"
