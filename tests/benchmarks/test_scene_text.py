"""Reading attributes of captions from samples."""

import numpy as np

from benchmarks import scene_text
from simple_diffusion.data.scenes import scenes


class Readers:
    """Reads the wanted attributes from images that hold their numbers."""

    classes = len(scenes.CATEGORY_NAMES)

    def read_attributes(self, pictures):
        names = ("object", "colour", "count", "position")
        return {
            name: pictures[:, 0, k, 0].astype(np.int32) for k, name in enumerate(names)
        }


def test_the_captions_are_those_of_the_scenes_and_name_what_is_wanted():
    found = scene_text.make_set((16, 16), 48)
    values = found.wanted.values
    for k, caption in enumerate(found.captions):
        place = ("left", "middle", "right")[values["position"][k]]
        assert caption.endswith(f"the {place}.")
        if (colour := values["colour"][k]) >= 0:
            assert scenes.COLOUR_NAMES[colour] in caption
    assert found.images.shape == (48, 16, 16, 3)


def test_each_row_has_what_its_images_show():
    held_out = scene_text.make_set((16, 16), 48)
    numbers = np.stack([*held_out.wanted.values.values()], -1)
    real = held_out._replace(
        images=np.tile(numbers[:, None, :, None], (1, 4, 1, 3)).astype(np.uint8)
    )
    wrong = real.images + np.uint8(1)
    rows = scene_text.table(Readers(), real, {"right": real.images, "wrong": wrong})
    assert set(rows) == {"most frequent value", "real scenes", "right", "wrong"}
    assert set(rows["right"].values()) == set(rows["real scenes"].values()) == {1.0}
    assert set(rows["wrong"].values()) == {0.0}
    # Each class occurs as often as any other.
    assert rows["most frequent value"]["object"] == 1 / 12
