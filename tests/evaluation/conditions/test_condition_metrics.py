"""The metrics of each condition, with readers that never err."""

import numpy as np
import pytest

from simple_diffusion.evaluation import metric_names
from simple_diffusion.evaluation.conditions import condition_metrics, others
from simple_diffusion.evaluation.conditions.condition_metrics import Pictures, Tools
from simple_diffusion.evaluation.conditions.wanted import (
    Attributes,
    Holes,
    SemanticMaps,
    SmallImages,
)
from simple_diffusion.evaluation.metrics import similarity
from simple_diffusion.evaluation.metrics.conditions import holes, low_resolution
from simple_diffusion.evaluation.metrics.conditions.layout import Layouts
from simple_diffusion.evaluation.networks.lpips import Lpips

N, SIDE = 12, 16


class Readers:
    """Reads images whose levels are the numbers of classes."""

    classes = 4

    def read_attributes(self, pictures):
        return {
            "object": pictures[:, 0, 0, 0].astype(np.int32),
            "colour": pictures[:, 0, 0, 1].astype(np.int32),
        }

    def find_objects(self, pictures):
        # One object: the upper left corner, as far as the first level says.
        side = pictures[:, 0, 0, 0] / SIDE
        box = np.zeros((len(pictures), 1, 4))
        box[:, 0, 2:] = side[:, None]
        one = np.ones((len(pictures), 1), bool)
        return Layouts(box, pictures[:, 0, :1, 1].astype(np.int32), one)

    def segment(self, pictures):
        return pictures[:, ::2, ::2, 0].astype(np.int32)


def levels(seed, high, shape=(N, SIDE, SIDE, 3)):
    return np.random.default_rng(seed).integers(0, high, shape, np.uint8)


def measure(kind, samples, originals, wanted, **tools):
    pictures = Pictures(samples, originals)
    found = condition_metrics.measure(
        kind, pictures, wanted, Tools(**{"readers": Readers(), **tools})
    )
    return {metric.name: metric for metric in found}


def test_captions_are_read_from_samples_and_from_real_images():
    real = levels(0, 3)
    samples = real.copy()
    samples[:3, 0, 0, 0] = 3
    colour = real[:, 0, 0, 1].astype(np.int32)
    colour[:4] = -1
    wanted = Attributes({"object": real[:, 0, 0, 0].astype(int), "colour": colour})
    found = measure("text", samples, real, wanted)
    assert list(found) == ["accuracy_object", "accuracy_colour"]
    metric = found["accuracy_object"]
    assert metric.value == 0.75 and metric.counts == (N, N)
    assert metric.interval is not None and metric.interval.low < 0.75
    share = np.bincount(wanted.values["object"]).max() / N
    assert metric.baselines == {"real images": 1.0, "most frequent value": share}
    assert found["accuracy_colour"].counts == (N - 4, N - 4)


def test_an_attribute_that_no_caption_names_is_left_out():
    wanted = Attributes({"object": np.full(N, -1), "colour": np.zeros(N, int)})
    assert list(measure("text", levels(0, 3), levels(0, 3), wanted)) == [
        "accuracy_colour"
    ]


def test_layouts_are_found_in_samples_and_in_real_images():
    real = levels(0, 4)
    real[:, 0, 0, 0] = 4 + np.arange(N) % 3 * 4
    wanted = Readers().find_objects(real)
    samples = real.copy()
    samples[:, 0, 0, 1] = 3 - samples[:, 0, 0, 1]  # another class
    same = measure("layout", real, real, wanted)
    for name in ("layout_iou", "layout_recall", "layout_precision"):
        assert same[name].value == same[name].baselines["real images"] == 1
    baseline = same["layout_iou"].baselines["boxes of another image"]
    # Its class is the same, but boxes of 4, 8 and 12 pixels overlap by a part.
    assert 0.1 < baseline < 1
    other = measure("layout", samples, real, wanted)
    assert other["layout_iou"].value == 0
    assert other["layout_iou"].baselines["real images"] == 1


def test_semantic_maps_are_compared_at_the_size_of_the_reader():
    real = levels(0, 4).repeat(2, 1).repeat(2, 2)
    ids = real[..., 0].astype(np.int32)
    same = measure("semantic", real, real, SemanticMaps(ids))
    assert same["semantic_accuracy"].value == same["semantic_iou"].value == 1
    # Random classes agree in one of four pixels.
    guess = same["semantic_accuracy"].baselines["map of another image"]
    assert guess == pytest.approx(0.25, abs=0.03)
    other = measure("semantic", 3 - real, real, SemanticMaps(ids))
    assert other["semantic_accuracy"].value == 0
    assert other["semantic_accuracy"].baselines["real images"] == 1


def test_large_images_are_compared_with_originals_and_with_their_inputs():
    originals = levels(0, 256)
    small = low_resolution.reduce_images(originals, (8, 8))
    found = measure("low_resolution", originals, originals, SmallImages(small))
    assert set(found) == {
        *("psnr", "ssim", "consistency_error", "consistency_error_max"),
    }
    assert found["consistency_error_max"].value == 0
    assert found["consistency_error_max"].baselines["real images"] == 0
    # Equal images count as if they differed by rounding alone.
    assert found["psnr"].value == pytest.approx(58.92, abs=0.01)
    simple = low_resolution.enlarge(small, (SIDE, SIDE))
    expected = similarity.psnr(simple, originals).mean()
    assert found["psnr"].baselines == {"bicubic enlargement": pytest.approx(expected)}
    again = measure("low_resolution", simple, originals, SmallImages(small))
    for metric in again.values():
        assert metric.value == metric.baselines["bicubic enlargement"]


def test_holes_are_compared_inside_and_known_pixels_outside():
    originals = levels(0, 256)
    hole = np.zeros((N, SIDE, SIDE), bool)
    hole[:, 4:12, 4:12] = True
    samples = holes.fill_nearest(originals, hole)
    found = measure("inpainting", samples, originals, Holes(hole))
    assert set(found) == {"hole_psnr", "hole_ssim", "known_exact"}
    for metric in found.values():
        assert metric.value == metric.baselines["nearest known pixel"]
    assert found["known_exact"].value == 1
    samples[:, 0] ^= 1
    changed = measure("inpainting", samples, originals, Holes(hole))
    assert changed["known_exact"].value == pytest.approx(1 - 16 / (256 - 64))
    # What is wrong outside of the hole is no error inside it.
    assert changed["hole_psnr"].value == found["hole_psnr"].value
    assert changed["hole_ssim"].value == found["hole_ssim"].value


def test_perceptual_distances_are_of_the_whole_image_with_its_hole_filled():
    class Difference(Lpips):
        def supports(self, height, width, channels):
            return (height, width, channels) == (SIDE, SIDE, 3)

        def __call__(self, images, originals):
            return np.abs(images.astype(float) - originals).mean((1, 2, 3))

    lpips = Difference("alex", "", {})
    originals, samples = levels(0, 256), levels(1, 256)
    hole = np.zeros((N, SIDE, SIDE), bool)
    hole[:, :4] = True
    found = measure("inpainting", samples, originals, Holes(hole), lpips=lpips)
    difference = np.abs(samples[:, :4].astype(float) - originals[:, :4]).mean() / 4
    assert found["hole_lpips_alex"].value == pytest.approx(difference)
    small = low_resolution.reduce_images(originals, (8, 8))
    large = measure(
        "low_resolution", samples, originals, SmallImages(small), lpips=lpips
    )
    difference = np.abs(samples.astype(float) - originals).mean()
    assert large["lpips_alex"].value == pytest.approx(difference)


def test_images_without_a_hole_do_not_count_in_it():
    originals = levels(0, 256)
    hole = np.zeros((N, SIDE, SIDE), bool)
    hole[3, 4:9] = True
    found = measure("inpainting", levels(1, 256), originals, Holes(hole))
    assert found["hole_psnr"].counts == (1, 1)
    assert found["hole_psnr"].interval is None


def test_what_cannot_be_read_is_an_error():
    wanted = SemanticMaps(np.zeros((N, SIDE, SIDE), np.int32))
    with pytest.raises(ValueError, match="semantic need readers"):
        measure("semantic", levels(0, 3), levels(0, 3), wanted, readers=None)
    with pytest.raises(ValueError, match="kind='depth' must be one of text, layout"):
        measure("depth", levels(0, 3), levels(0, 3), wanted)


def test_every_name_says_which_way_is_better():
    for name in (
        *("accuracy_object", "accuracy_colour", "accuracy_count", "accuracy_position"),
        *("layout_iou", "layout_recall", "layout_precision", "semantic_accuracy"),
        *("semantic_iou", "psnr", "ssim", "hole_psnr", "hole_ssim", "known_exact"),
    ):
        assert metric_names.is_lower_better(name) is False
        assert metric_names.split_name(name) == (name, None, None)
    for name in ("consistency_error", "consistency_error_max", "hole_lpips_alex"):
        assert metric_names.is_lower_better(name) is True
    assert metric_names.plain_kind("hole_lpips_alex") == "hole_lpips"


def test_pairs_share_their_key_if_any_other_has_it():
    keys = ["a", "b", "a", "c", "b", "a"]
    other = others.pair_with_others(keys)
    assert (other != np.arange(6)).all()
    for k, partner in enumerate(other):
        assert keys[k] == keys[partner] or keys.count(keys[k]) == 1
    with pytest.raises(ValueError, match="cannot be paired"):
        others.pair_with_others(["a"])
