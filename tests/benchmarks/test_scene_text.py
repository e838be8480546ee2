import numpy as np

from benchmarks import scene_text


def test_attributes_are_those_that_captions_name():
    found = scene_text.make_set((16, 16), 0, 48, "holdout")
    for k, caption in enumerate(found.captions):
        place = ("left", "middle", "right")[found.attributes["position"][k]]
        assert caption.endswith(f"the {place}.")
        if (colour := found.attributes["colour"][k]) >= 0:
            assert scene_text.scenes.COLOUR_NAMES[colour] in caption


def test_training_and_held_out_scenes_differ():
    one = scene_text.make_set((16, 16), 0, 16, "train")
    other = scene_text.make_set((16, 16), 0, 16, "holdout")
    assert not any(np.array_equal(a, b) for a in one.images for b in other.images)


def test_a_trained_reader_is_better_than_chance_and_sees_exchanged_captions():
    params = scene_text.train((16, 16), steps=60)
    held_out = scene_text.make_set((16, 16), 0, 128, "holdout")
    read = scene_text.accuracies(params, held_out.images, held_out.attributes)
    guessed = scene_text.chance(held_out.attributes)
    assert read["object"] > guessed["object"] + 0.3
    assert read["colour"] > guessed["colour"]
    shuffled = {k: np.roll(v, 1) for k, v in held_out.attributes.items()}
    wrong = scene_text.accuracies(params, held_out.images, shuffled)
    assert wrong["object"] < 0.3
