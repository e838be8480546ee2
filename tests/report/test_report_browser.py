"""The report in a real browser: pictures and plots are there, to be seen."""

import re

import numpy as np
import pytest
from ml_collections import ConfigDict

from simple_diffusion.modes import report
from tests.report import browser, report_run

pytestmark = [
    pytest.mark.skipif(
        browser.find() is None,
        reason=f"no browser: none of {', '.join(browser.NAMES)} is installed, and the "
        "variable CHROMIUM names none",
    ),
    pytest.mark.slow,
]
# Colours of an image may be off by one after the browser's own conversions; a picture
# that is enlarged has sharp pixels, but its border is rounded.
NEAR = 2


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    folder = report_run.make(tmp_path_factory.mktemp("run"))
    path = report.run(ConfigDict(), str(folder)).path
    return browser.look(path, tmp_path_factory.mktemp("browser"))


def cut(pixels, box):
    x, y, w, h = box
    return pixels[y : y + h, x : x + w].astype(int)


def test_nothing_goes_wrong_and_nothing_is_asked_for(seen):
    about, _ = seen
    assert about["wrong"] == []
    assert about["asked"] == []
    assert len(about["links"]) > 10 and all(about["links"])


def test_the_policy_stops_what_would_ask_the_network(tmp_path):
    folder = report_run.make(tmp_path / "run")
    path = report.run(ConfigDict(), str(folder)).path
    text = path.read_text()
    path.write_text(text.replace("<nav>", '<img src="https://example.com/x.png"><nav>'))
    about, _ = browser.look(path, tmp_path)
    assert "asked: https://example.com/x.png" in about["wrong"]


def test_each_picture_is_seen_where_it_should_be(seen):
    about, pixels = seen
    found = {}
    for _, box, natural in about["images"]:
        assert natural == 120
        if not box[3]:
            continue  # a frame that the slider does not show
        for name, colour in report_run.COLOURS.items():
            near = np.abs(cut(pixels, box) - colour).max(axis=-1) <= NEAR
            if near.mean() > 0.5:
                found[name] = near.mean(), box[2] / box[3]
    frames = {name for name in report_run.PICTURES if name.startswith("grids/")}
    # The slider stands at the first frame: the last thing that was tried.
    assert set(found) == set(report_run.PICTURES) - frames | {"grids/step_0000100.png"}
    for share, shape in found.values():
        # All but the black corner of 6x6 of 60x120 pixels, and a thin border.
        assert 0.96 < share < 0.996
        assert shape == pytest.approx(2, rel=0.02)


def test_the_slider_shows_one_frame_at_a_time(seen):
    about, _ = seen
    assert about["frames"] == [[False, False, True], [True, False, False]]


def test_without_scripts_all_frames_are_shown(tmp_path):
    folder = report_run.make(tmp_path / "run")
    path = report.run(ConfigDict(), str(folder)).path
    path.write_text(re.sub(r"<script>.*?</script>", "", path.read_text(), flags=re.S))
    pixels = browser.picture(path, tmp_path, 1200, 9000).astype(int)
    for name, colour in report_run.COLOURS.items():
        seen = (np.abs(pixels - colour).max(axis=-1) <= NEAR).sum()
        assert seen > 60 * 120 * 0.9, name


def test_each_plot_has_axes_and_a_line_in_its_colour(seen):
    about, pixels = seen
    titles = [title for title, _ in about["plots"]]
    assert "loss" in titles and "metrics against guidance" in titles
    for title, box in about["plots"]:
        shown = cut(pixels, box)
        assert min(box[2:]) > 150, title
        white = (shown > 250).all(axis=-1)
        assert 0.3 < white.mean() < 0.99, title
        dark = (shown < 140).all(axis=-1)  # words and axes
        assert dark.sum() > 300, title
        red, _, blue = shown.transpose(2, 0, 1)
        coloured = np.abs(red - blue) > 40
        # A line of 1.5 points across at least a third of the plot.
        assert coloured.any(axis=0).sum() > box[2] / 3, title


def test_nothing_is_wider_than_the_window(seen):
    about, pixels = seen
    assert about["width"] <= pixels.shape[1]
    assert pixels.shape[0] == about["height"]


def test_a_narrow_window_shows_everything_too(tmp_path):
    folder = report_run.make(tmp_path / "run")
    path = report.run(ConfigDict(), str(folder)).path
    about, _ = browser.look(path, tmp_path, width=520)
    assert about["width"] <= 520
    assert all(0 < box[2] <= 520 for _, box in about["plots"])
