import numpy as np
import pytest

from simple_diffusion.data.scenes import captions, combinations, scenes
from simple_diffusion.data.scenes.scenes_source import ScenesSource


def test_the_source_reads_what_is_described():
    source = ScenesSource(seed=5, length=100, split="holdout")
    assert len(source) == 100 and source.class_names == scenes.CLASS_NAMES
    batch = source.read_batch(np.array([17, 3]), (40, 40))
    few = scenes.describe(5, [17, 3], split="holdout")
    np.testing.assert_array_equal(batch.image, scenes.render(few, 40, 40))
    np.testing.assert_array_equal(batch.label, few.label)
    example = source.read(3, 40)
    np.testing.assert_array_equal(example.image, batch.image[1])
    assert example.label == batch.label[1] and isinstance(example.label, int)
    assert batch.image.dtype == np.uint8 and batch.label.dtype == np.int32


def test_what_the_source_does_not_have_is_an_error():
    source = ScenesSource(length=10)
    with pytest.raises(IndexError, match="0 to 9"):
        source.read(10, 8)
    with pytest.raises(ValueError, match="split='test' must be one of train, holdout"):
        ScenesSource(split="test")
    with pytest.raises(ValueError, match="length=0"):
        ScenesSource(length=0)


def test_captions_have_the_form_of_each_scene_and_are_true_of_it():
    source = ScenesSource(seed=5, length=100)
    read = source.read_batch(np.arange(40), (8, 8), fields={"caption"})
    few = scenes.describe(5, np.arange(40))
    assert read.caption == captions.write(few)
    assert source.read(7, 8).caption == captions.write(few)[7]


def test_held_out_combinations_are_replaced_in_training_alone():
    indices = np.arange(400)
    size = 8, 8
    for split in scenes.SPLITS:
        plain = ScenesSource(3, 1000, split)
        option = ScenesSource(3, 1000, split, holds_out_combinations=True)
        one, other = (s.read_batch(indices, size) for s in (plain, option))
        held_out = combinations.is_held_out_combination(plain.describe(indices))
        changed = (one.image != other.image).any((1, 2, 3))
        np.testing.assert_array_equal(changed, held_out & (split == "train"))
        np.testing.assert_array_equal(one.label, other.label)
        assert held_out.any()
