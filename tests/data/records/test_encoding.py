import os

import numpy as np
import pytest
from PIL import Image

from simple_diffusion.data.sources import catalogue
from tests.data import pictures


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return pictures.make(tmp_path_factory.mktemp("images"), bad=(7, 23))


# The area filter: the mean over squares, and Pillow rounds after each axis.
def test_a_reduced_image_is_the_mean_over_squares(tmp_path):
    array = pictures.pixels(1, 48, 75)
    pictures.write(tmp_path / "images" / "1.png", array)
    options = dict(size=16, resize="area", quality="lossless")
    root = pictures.prepare(tmp_path / "images", tmp_path / "records", **options)
    found = pictures.load_all(root)["1.png"]
    means = array.reshape(16, 3, 25, 3, 3).mean((1, 3))
    assert np.abs(found - means).max() <= 1


@pytest.mark.parametrize("resize", ["area", "antialias"])
def test_a_reduced_image_is_what_pillow_makes_of_it(tmp_path, resize):
    array = pictures.pixels(2, 50, 41)
    pictures.write(tmp_path / "images" / "1.png", array)
    kinds = {"area": Image.Resampling.BOX, "antialias": Image.Resampling.LANCZOS}
    # No edge of an area falls on the centre of a pixel, where rounding would decide.
    wanted = np.asarray(Image.fromarray(array).resize((31, 38), kinds[resize]))
    found = {}
    for quality in ("lossless", 95):
        options = dict(size=31, resize=resize, quality=quality)
        root = tmp_path / str(quality)
        pictures.prepare(tmp_path / "images", root, **options)
        found[quality] = pictures.load_all(root)["1.png"].astype(int)
    # `transforms.resample_crop` moves the filter's edges by a thousandth of a pixel.
    assert np.abs(found["lossless"] - wanted).max() <= 1
    error = found[95] - wanted
    # At quality 95 the quantisation steps are 2 to 12 for brightness: an error of about
    # two levels, and of more for colours.
    assert 0 < np.sqrt(np.mean(error**2)) < 4


def test_nothing_is_enlarged_and_what_is_small_stays_as_it_is(images, tmp_path):
    options = dict(size=30, resize="area", quality=95)
    root = pictures.prepare(images, tmp_path / "records", **options)
    originals = {}
    for split in ("train", "holdout"):
        folder = catalogue.open_source(f"folder:{images}", split=split)
        for k in range(len(folder)):
            name = os.path.relpath(folder.name(k), images)
            if name not in pictures.manifest_of(root)["skipped"]:
                originals[name] = folder.read(k, 1000).image
    reduced = pictures.load_all(root)
    assert reduced.keys() == originals.keys()
    small = 0
    for name, image in originals.items():
        if min(image.shape[:2]) <= 30:
            small += 1
            assert (reduced[name] == image).all()
        else:
            h, w, _ = reduced[name].shape
            assert min(h, w) == 30
            assert abs(h / w - image.shape[0] / image.shape[1]) < 1 / 30
    assert 5 < small < len(originals) - 5
