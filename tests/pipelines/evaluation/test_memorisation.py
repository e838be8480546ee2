"""Samples that include training images: metrics and pictures show them."""

import json

import numpy as np
import pytest
from etils import epath

from simple_diffusion.build import data
from simple_diffusion.core import images
from simple_diffusion.modes import evaluate
from simple_diffusion.pipelines.evaluation import class_grids, image_sets
from tests.modes import test_modes
from tests.modes.small_features import write_folder

SIDE, COPIES = 16, 3


def photographs(seed, count):
    """Returns pictures with different thumbnails."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (count, 4, 4, 3), np.uint8)
    return small.repeat(SIDE // 4, 1).repeat(SIDE // 4, 2)


@pytest.fixture
def config(tmp_path):
    """Twelve samples: copies of three of the 60 training images, and nine new ones."""
    config = test_modes.tiny()
    config.data.source = write_folder(tmp_path / "photographs", photographs(0, 60))
    config.data.holdout_fraction = 0.3
    opened = data.open_data(config)
    size = SIDE, SIDE
    whole = next(opened.full_images(opened.epoch, COPIES, size, "train"))
    new = photographs(1, 9)
    samples = np.concatenate([new[:4], whole.image, new[4:]])
    config.evaluate.update(
        samples=write_folder(tmp_path / "samples", samples),
        metrics=("memorisation",),
        show_neighbours=5,
        reference_features=100,
    )
    return config


def cells(path, columns):
    """Returns the images of a sheet, [row, column, h, w, c]."""
    sheet = images.read_png(path)
    factor = sheet.shape[1] // (columns * (SIDE + 2) + 2)
    sheet = sheet[::factor, ::factor]
    rows = [
        [sheet[y : y + SIDE, x : x + SIDE] for x in range(2, sheet.shape[1], SIDE + 2)]
        for y in range(2, sheet.shape[0], SIDE + 2)
    ]
    return np.array(rows)


def test_copies_are_counted_and_shown_first_next_to_their_originals(config, tmp_path):
    metrics = evaluate.run(config, str(tmp_path / "run"))
    assert metrics["copies_thumbnail_12"] == COPIES
    assert metrics["near_training_thumbnail_12"] >= COPIES / 12
    assert 0.5 < metrics["nearest_ratio_thumbnail_12"] < 1.5  # most are new
    path = tmp_path / "run" / "evaluation" / "comparison" / "neighbours.png"
    shown = cells(path, 6)
    assert shown.shape[:2] == (5, 6)
    same = [(row[0] == row[1]).all() for row in shown]
    assert same == [True] * COPIES + [False] * 2
    apart = np.abs(shown[:, :1].astype(float) - shown[:, 1:]).mean((2, 3, 4))
    assert (apart[:, 0] < apart[:, 1:].mean(1)).all()


def test_a_note_gives_the_reason_for_a_missing_picture(config, tmp_path):
    source = tmp_path / "photographs"
    opened = data.open_data(config)
    (source / "060.png").write_bytes(b"no picture")
    for k in range(61, 80):  # whatever is held out, some of them are not
        (source / f"{k:03d}.png").write_bytes(b"no picture")
    assert data.open_data(config).epoch > opened.epoch
    evaluate.run(config, str(tmp_path / "run"))
    record = json.loads((tmp_path / "run" / "comparison.json").read_text())
    assert any(
        "neighbours.png is not written: not all images" in n for n in record["notes"]
    )
    assert "copies_thumbnail_12" in record["metrics"]


def test_without_a_data_source_a_note_names_what_is_missing(config, tmp_path):
    config.evaluate.reference = config.evaluate.samples
    evaluate.run(config, str(tmp_path / "run"))
    record = json.loads((tmp_path / "run" / "comparison.json").read_text())
    assert any("memorisation needs a data source" in note for note in record["notes"])


def test_a_sheet_shows_the_first_samples_of_its_class(tmp_path):
    pictures = photographs(2, 10)
    labels = np.array([2, 0, 2, 2, 0, 0, 0, 2, 2, 2])
    names = "boat", "cat & dog", "tree"
    drawn = image_sets.ImageSet(
        {}, 10, (SIDE, SIDE), names, lambda start: [], lambda places: pictures[places]
    )
    (tmp_path / "classes").mkdir()
    (tmp_path / "classes" / "07_old.png").write_text("of an earlier evaluation")
    class_grids.write(epath.Path(tmp_path), drawn, labels, 3)
    written = sorted(path.name for path in (tmp_path / "classes").iterdir())
    assert written == ["00_boat.png", "02_tree.png"]  # of cats and dogs there are none
    boats = cells(tmp_path / "classes" / "00_boat.png", 3)
    np.testing.assert_array_equal(boats[0], pictures[[1, 4, 5]])
    trees = cells(tmp_path / "classes" / "02_tree.png", 3)
    np.testing.assert_array_equal(trees[0], pictures[[0, 2, 3]])
