import dataclasses

import numpy as np
import pytest

from simple_diffusion.data.scenes import captions, combinations, scenes

BATCH = 3000


@pytest.fixture(scope="module")
def stream():
    return scenes.describe(0, np.arange(4 * BATCH))


@pytest.fixture(scope="module")
def reduced():
    return combinations.describe_without_held_out(0, np.arange(4 * BATCH))


def test_a_tenth_of_the_combinations_is_held_out(stream):
    held_out = combinations.is_held_out_combination(stream)
    is_aside = stream.place != 1
    facts = stream.label, stream.colour, stream.count, is_aside
    _, first = np.unique(np.stack(facts, 1), axis=0, return_index=True)
    assert len(first) == 154
    assert held_out[first].mean() == pytest.approx(0.11, abs=0.005)
    assert held_out.mean() == pytest.approx(0.08, abs=0.01)
    for label, name in enumerate(scenes.CLASS_NAMES):
        share = held_out[stream.label == label].mean()
        assert share < 0.17 and (share > 0.02 or name == "cactus")


def test_training_has_no_held_out_combination(reduced):
    assert not combinations.is_held_out_combination(reduced).any()


def test_training_has_every_colour_count_and_place_of_each_class(stream, reduced):
    for name in ("colour", "count", "place", "accent"):
        pairs, kept = (
            set(zip(s.label.tolist(), getattr(s, name).tolist(), strict=True))
            for s in (stream, reduced)
        )
        assert pairs == kept


def test_a_mirrored_image_of_training_has_no_held_out_combination(stream):
    mirrored = dataclasses.replace(stream, place=2 - stream.place)
    np.testing.assert_array_equal(
        combinations.is_held_out_combination(mirrored),
        combinations.is_held_out_combination(stream),
    )


def test_other_scenes_of_the_stream_stay_and_classes_stay_balanced(stream, reduced):
    kept = ~combinations.is_held_out_combination(stream)
    some = np.flatnonzero(kept)[:40]
    np.testing.assert_array_equal(
        scenes.render(stream[some], 12, 12), scenes.render(reduced[some], 12, 12)
    )
    for field in ("label", "wording"):
        np.testing.assert_array_equal(getattr(stream, field), getattr(reduced, field))
    np.testing.assert_array_equal(stream.place[kept], reduced.place[kept])


def test_a_replacement_depends_on_its_number_only_and_is_a_scene_of_its_own(
    stream, reduced
):
    rows = np.flatnonzero(combinations.is_held_out_combination(stream))[:30]
    again = combinations.describe_without_held_out(0, rows)
    images = scenes.render(again, 12, 12)
    np.testing.assert_array_equal(images, scenes.render(reduced[rows], 12, 12))
    assert captions.write(again) == captions.write(reduced[rows])
    assert len(np.unique(images.reshape(len(rows), -1), axis=0)) == len(rows)
    # Boxes and captions are those of the new picture.
    found = scenes.boxes(again)
    assert (found.present.sum(1) >= again.count).all()
    straight = scenes.describe(0, rows, again.label, replacement=1)
    first = ~combinations.is_held_out_combination(straight)
    np.testing.assert_array_equal(images[first], scenes.render(straight[first], 12, 12))
