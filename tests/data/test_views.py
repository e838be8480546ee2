"""Patches of every source are what their boxes say: parts of the resized whole."""

import numpy as np
import pytest
from PIL import Image

from simple_diffusion.core.examples import Example
from simple_diffusion.data import fields, order, patches, pipeline, views
from simple_diffusion.data.errors import DataError
from simple_diffusion.data.scenes import scenes, scenes_source
from simple_diffusion.data.sources import catalogue
from tests.data.sources.test_tfds_source import prepare
from tests.data.test_skipping import Numbered

SEED = 5
SIZES = [(40, 40), (33, 50), (70, 36), (64, 64), (41, 90), (36, 36), (50, 33), (90, 61)]
DISTRIBUTION = patches.PatchDistribution(patch=16, smallest=20, largest=32, flip=True)


def photograph(k, size):
    """Returns an image that is unlike its mirror image and unlike the others."""
    rng = np.random.default_rng(k)
    small = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC)


PHOTOGRAPHS = [photograph(k, size) for k, size in enumerate(SIZES)]


class Stored(Numbered):
    """The photographs, from a source that knows nothing of parts."""

    def __init__(self):
        super().__init__(len(PHOTOGRAPHS))

    def read(self, index, resolution):
        return Example(np.asarray(PHOTOGRAPHS[index]))


def folder(path):
    for k, image in enumerate(PHOTOGRAPHS):
        image.save(path / f"{k}.png")
    source = catalogue.open_source(f"folder:{path}")
    # One image is held out.
    paths = [source.name(k) for k in range(len(source))]
    return source, [Image.open(path) for path in paths]


def tfds(path):
    prepare(path, "toy", {"train": [(np.asarray(v), 0) for v in PHOTOGRAPHS] * 5})
    source = catalogue.open_source("tfds:toy", str(path))
    return source, [
        Image.fromarray(source.read(k, 99).image) for k in range(len(source))
    ]


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Sources of stored images, each with its images."""
    return {
        "folder": folder(tmp_path_factory.mktemp("photographs")),
        "tfds": tfds(tmp_path_factory.mktemp("tfds")),
        "plain": (Stored(), PHOTOGRAPHS),
    }


def drawn(source, distribution, steps=4, batch_size=16, **options):
    """Returns (index, image, box) of the patches of the first batches."""
    options = dict(batch_size=batch_size, seed=SEED, patches=distribution) | options
    batches = pipeline.train_batches(source, **options)
    found = []
    for step in range(steps):
        batch = next(batches)
        position = step * batch_size + np.arange(batch_size)
        index = order.shuffle(position, len(source), SEED).tolist()
        found += zip(index, batch.image, batch.box.astype(float), strict=True)
    batches.close()
    return found


def whole_and_corner(box, patch=DISTRIBUTION.patch):
    """Returns height and width of the whole and the patch's offset in it."""
    h, w = patch / (box[2] - box[0]), patch / (box[3] - box[1])
    y, x = box[0] * h, box[1] * w
    numbers = [round(v) for v in (h, w, y, x)]
    # A box is in float32.
    np.testing.assert_allclose((h, w, y, x), numbers, atol=1e-3)
    return numbers


def difference(a, b):
    return np.abs(a.astype(int) - b.astype(int)).max()


def check(found, whole_of, tolerance):
    """Checks each patch against its whole; some must show it mirrored, some not."""
    flips = set()
    for index, image, box in found:
        h, w, y, x = whole_and_corner(box)
        whole = whole_of(index, h, w)
        here = slice(y, y + DISTRIBUTION.patch), slice(x, x + DISTRIBUTION.patch)
        straight = difference(image, whole[here]) <= tolerance
        mirrored = difference(image, whole[:, ::-1][here]) <= tolerance
        assert straight or mirrored
        flips.add(mirrored and not straight)
        # The guard: had the patch been mirrored after it was cut, and not its box, it
        # would be another, unless it lies in the middle.
        wrong = whole[here][:, ::-1]
        if mirrored and abs(2 * x + DISTRIBUTION.patch - w) > 4:
            assert difference(image, wrong) > tolerance
    assert flips == {True, False}


def middle(image, h, w):
    """Returns the largest h to w part in the middle of an image, resized to h, w.

    It is resized before it is cut out: what lies around it takes part in its edges.
    """
    pixels = min(image.height / h, image.width / w)
    y = int(image.height - pixels * h + 1 + 1e-6) // 2
    x = int(image.width - pixels * w + 1 + 1e-6) // 2
    return lanczos(image, h, w, (x, y, x + pixels * w, y + pixels * h))


def lanczos(image, h, w, box=None):
    """Returns a part of an image resized, rows first, as Pillow may or may not do."""
    x0, y0, x1, y1 = box or (0, 0, *image.size)
    image = image.resize(
        (w, image.height), Image.Resampling.LANCZOS, (x0, 0, x1, image.height)
    )
    return np.asarray(image.resize((w, h), Image.Resampling.LANCZOS, (0, y0, w, y1)))


@pytest.mark.parametrize("kind", ["folder", "tfds", "plain"])
def test_a_box_recovers_the_patch_of_a_stored_image(kind, opened):
    source, images = opened[kind]
    found = drawn(source, DISTRIBUTION)
    assert len({index for index, _, _ in found}) == min(len(images), len(found))
    check(found, lambda k, h, w: middle(images[k], h, w), tolerance=1)


def test_a_box_recovers_the_patch_of_an_image_in_its_own_shape_and_size(opened):
    source, images = opened["folder"]
    distribution = patches.PatchDistribution(16, 20, None, aspect=None, flip=True)
    found = drawn(source, distribution)
    check(found, lambda k, h, w: lanczos(images[k], h, w), tolerance=1)
    shapes = {tuple(whole_and_corner(box)[:2]) for _, _, box in found}
    assert any(h > w for h, w in shapes) and any(h < w for h, w in shapes)


def test_a_box_recovers_the_patch_of_a_whole_of_another_aspect(opened):
    source, images = opened["folder"]
    distribution = patches.PatchDistribution(16, 20, 24, aspect=2.0, flip=True)
    found = drawn(source, distribution)
    check(found, lambda k, h, w: middle(images[k], h, w), tolerance=1)


@pytest.mark.parametrize("aspect", [1.0, 2.0])
def test_a_box_recovers_the_patch_of_a_scene(aspect):
    source = catalogue.open_source("scenes")
    distribution = patches.PatchDistribution(16, 20, 32, aspect=aspect, flip=True)
    found = drawn(source, distribution)

    def whole(index, h, w):
        return scenes.render(source.describe([index]), h, w)[0]

    # Pixel centres differ in their last bits.
    check(found, whole, tolerance=1)
    square = {h == w for h, w, _, _ in (whole_and_corner(box) for _, _, box in found)}
    assert (False in square) == (aspect > 1)


def test_a_box_recovers_the_patch_of_a_digit():
    source = catalogue.open_source("digits")

    def whole(index, h, w):
        return lanczos(Image.fromarray(source.read(index, 32).image), h, w)

    check(drawn(source, DISTRIBUTION), whole, tolerance=1)


def test_patches_as_large_as_the_smallest_size_are_half_of_the_time_the_whole():
    source = catalogue.open_source("scenes")
    distribution = patches.PatchDistribution(16, 16, 32)
    boxes = [tuple(box) for _, _, box in drawn(source, distribution, steps=16)]
    share = boxes.count((0.0, 0.0, 1.0, 1.0)) / len(boxes)
    expected = 0.5 + 0.25 / 16
    assert abs(share - expected) < 5 * 0.5 / np.sqrt(len(boxes))


@pytest.mark.parametrize("kind", ["folder", "plain", "scenes"])
def test_patches_resume_at_any_step_and_split_between_processes(kind, opened):
    source = catalogue.open_source("scenes") if kind == "scenes" else opened[kind][0]

    def take(count, **options):
        options = dict(batch_size=8, seed=SEED, patches=DISTRIBUTION) | options
        batches = pipeline.train_batches(source, **options)
        found = [next(batches) for _ in range(count)]
        batches.close()
        return found

    whole = take(4)
    for resumed, batch in zip(take(2, start_step=2), whole[2:], strict=True):
        for name in ("image", "label", "box", "mask"):
            assert (getattr(resumed, name) == getattr(batch, name)).all()
    halves = [take(4, process_index=k, process_count=2) for k in range(2)]
    for step, batch in enumerate(whole):
        for name in ("image", "box"):
            parts = np.concatenate([getattr(half[step], name) for half in halves])
            assert (parts == getattr(batch, name)).all()
    (other,) = take(1, seed=SEED + 1)
    assert not (other.box == whole[0].box).all()


@pytest.mark.parametrize("kind", ["folder", "scenes"])
def test_held_out_patches_are_the_same_each_time_and_not_mirrored(kind, opened):
    source = catalogue.open_source("scenes") if kind == "scenes" else opened[kind][0]

    def evaluate():
        options = dict(batch_size=4, count=7, patches=DISTRIBUTION)
        return list(pipeline.eval_batches(source, **options))

    first, again = evaluate(), evaluate()
    assert [b.mask.sum() for b in first] == [4, 3]
    for a, b in zip(first, again, strict=True):
        assert (a.image == b.image).all() and (a.box == b.box).all()
    boxes = np.concatenate([b.box[b.mask] for b in first])
    assert len(np.unique(boxes, axis=0)) == 7
    if kind == "folder":
        indices = order.shuffle(np.arange(7), len(source), seed=0)
        images = np.concatenate([b.image[b.mask] for b in first])
        for index, image, box in zip(indices, images, boxes, strict=True):
            h, w, y, x = whole_and_corner(box.astype(float))
            whole = middle(opened[kind][1][index], h, w)
            assert difference(image, whole[y : y + 16, x : x + 16]) <= 1


def test_whole_images_of_any_shape_are_cut_in_the_middle_or_made(opened):
    source, images = opened["folder"]
    size = 12, 24
    (batch,) = pipeline.eval_batches(
        source, batch_size=7, size=size, resize="antialias"
    )
    assert batch.image.shape == (7, 12, 24, 3)
    assert batch.box.tolist() == [[0, 0, 1, 1]] * 7
    for index, image in zip(
        order.shuffle(np.arange(7), 7, 0), batch.image, strict=True
    ):
        w, h = images[index].size
        rows, columns = min(h, round(w / 2)), min(w, 2 * h)
        y, x = (h - rows + 1) // 2, (w - columns + 1) // 2
        part = images[index].crop((x, y, x + columns, y + rows))
        assert difference(image, lanczos(part, *size)) <= 4  # in another order
    made = catalogue.open_source("scenes")
    batch = next(pipeline.eval_batches(made, batch_size=3, size=size))
    indices = order.shuffle(np.arange(3), len(made), 0)
    assert (batch.image == scenes.render(made.describe(indices), *size)).all()


def test_images_too_small_for_all_sizes_are_counted_and_reported_once(opened, capsys):
    source, images = opened["folder"]
    distribution = patches.PatchDistribution(16, 20, 41)
    batches = pipeline.train_batches(
        source, batch_size=14, seed=SEED, patches=distribution
    )
    assert batches.small_count == 0
    for _ in range(3):
        next(batches)
    small = [min(image.size) < 41 for image in images]
    assert batches.small_count == sum(small) > 1 and batches.bad_count == 0
    lines = capsys.readouterr().out.splitlines()
    reports = [line for line in lines if "data.patches" in line]
    assert len(reports) == 1
    assert reports[0].startswith("data.patches.largest=41 is too large for /")
    batches.close()


@pytest.mark.parametrize("kind", ["folder", "plain"])
def test_images_below_the_smallest_size_are_bad_images(kind, opened, capsys):
    source, images = opened[kind]
    distribution = patches.PatchDistribution(16, 40, 40)
    bad = {k for k, image in enumerate(images) if min(image.size) < 40}
    options = dict(batch_size=len(source), patches=distribution)
    batches = pipeline.eval_batches(source, **options)
    (batch,) = batches
    assert batches.bad_count == len(bad) > 0
    masked = order.shuffle(np.arange(len(source)), len(source), 0)[~batch.mask]
    assert set(masked.tolist()) == bad
    name = source.name(min(bad)) if kind == "folder" else f"example {min(bad)} of"
    said = capsys.readouterr().out
    assert name in said and "data.patches.smallest=40" in said


def test_when_no_image_is_large_enough_the_error_says_so(opened):
    batches = pipeline.train_batches(
        opened["plain"][0],
        batch_size=4,
        seed=0,
        patches=patches.PatchDistribution(16, 500, 600),
    )
    with pytest.raises(DataError, match="none of the 8 .* data.patches.smallest=500"):
        next(batches)


@pytest.mark.parametrize("name", ["scenes", "digits"])
def test_a_source_without_stored_images_has_no_native_size(name):
    distribution = patches.PatchDistribution(16, 16, None)
    with pytest.raises(DataError, match="data.patches.largest=None .* say how large"):
        drawn(catalogue.open_source(name), distribution)


def test_whole_images_that_are_enlarged_are_named_once_each(opened, capsys):
    source, images = opened["folder"]
    view = views.FullImages(source, (48, 48), SEED)
    for position in range(2 * len(source)):
        view.read(position % len(source), position)
    small = [image for image in images if min(image.size) < 48]
    assert view.small_images.count == len(small) > 1
    (first,) = [
        line for line in capsys.readouterr().out.splitlines() if "enlarged" in line
    ]
    assert "is enlarged to 48x48" in first and small[0].filename in first
    assert "(images so far: 1)" in first


def test_images_that_are_made_at_any_size_are_never_enlarged(capsys):
    view = views.FullImages(catalogue.open_source("digits"), (16, 16), SEED)
    assert view.read(0, 0).example.image.shape == (16, 16, 3)
    assert view.small_images.count == 0 and not capsys.readouterr().out


def test_fields_of_generated_patches_are_mirrored_with_their_image():
    source, index = scenes_source.ScenesSource(length=24), np.arange(24)
    wanted = frozenset({"map:semantic", "objects"})
    view = views.Patches(source, DISTRIBUTION, SEED, wanted=wanted)
    found = view.read_batch(index, index)
    y0, x0, y1, x1 = found.box.T
    # The same places of the scenes, and those that mirrored scenes have there.
    plain, other = (
        source.read_batch(index, view.size, np.stack(window, -1), fields=wanted)
        for window in ((y0, x0, y1, x1), (y0, 1 - x1, y1, 1 - x0))
    )
    flips = 0
    for k, example in enumerate(found.examples):
        np.testing.assert_array_equal(example.image, found.image[k])
        flip = bool((example.image == other.image[k][:, ::-1]).all())
        rendered = (other if flip else plain).at(k)
        semantic, image = rendered.maps["semantic"], rendered.image
        if flip:
            semantic, image = semantic[:, ::-1], image[:, ::-1]
        np.testing.assert_array_equal(example.image, image)
        np.testing.assert_array_equal(example.maps["semantic"], semantic)
        expected = fields.crop_objects(rendered.objects, (0.0, 0.0, 1.0, 1.0), flip)
        np.testing.assert_allclose(example.objects.box, expected.box, atol=1e-6)
        flips += flip
    assert 4 < flips < 20
