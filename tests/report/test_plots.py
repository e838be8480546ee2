"""Plots hold what they are given, are the same each time and need nothing around."""

import base64
import io
import re
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from simple_diffusion.report import curves, drawing, plots
from simple_diffusion.report.drawing import Series

SVG = "{http://www.w3.org/2000/svg}"


def point(guidance, steps=24, low=None, high=None, **metrics):
    return {
        "guidance": guidance,
        "guidance_low": low,
        "guidance_high": high,
        "steps": steps,
        "network_calls": steps + 1,
        "metrics": metrics,
        "intervals": {},
        "standard_errors": {},
    }


SWEEP = [
    point(g, steps, fd_scenes_2k=(g - 2) ** 2 + 1 / steps, accuracy_scenes_2k=0.2 * g)
    for steps in (12, 24)
    for g in (1.0, 2.0, 4.0)
]


def paths(svg, colour):
    """Returns the points of all paths that are stroked in a colour."""
    found = []
    for path in ElementTree.fromstring(svg).iter(f"{SVG}path"):
        if f"stroke: {colour}" in path.get("style", ""):
            numbers = re.findall(r"-?[\d.]+", path.get("d", ""))
            found.append(np.array(numbers, float).reshape(-1, 2))
    return found


def longest(svg, colour):
    return max(paths(svg, colour), key=len)


def test_a_line_goes_where_its_numbers_are():
    x, y = np.array([0.0, 1, 2, 3.5]), np.array([3.0, 1, 2, 7])
    drawn = longest(curves.plot_lines([Series(x, y)]), drawing.PALETTE[0])
    # Both axes are linear maps of the data; y grows downwards in SVG.
    assert np.corrcoef(drawn[:, 0], x)[0, 1] == pytest.approx(1, abs=1e-6)
    assert np.corrcoef(drawn[:, 1], y)[0, 1] == pytest.approx(-1, abs=1e-6)


def test_a_logarithmic_axis_makes_a_line_of_a_power():
    x = np.arange(1.0, 9.0)
    svg = curves.plot_lines([Series(x, 10.0**x)], log_y=True)
    drawn = longest(svg, drawing.PALETTE[0])
    assert np.corrcoef(drawn[:, 1], x)[0, 1] == pytest.approx(-1, abs=1e-6)


def test_a_logarithmic_axis_without_positive_values_stays_linear():
    svg = curves.plot_lines([Series([1.0, 2.0], [-1.0, 0.0])], log_y=True)
    assert len(longest(svg, drawing.PALETTE[0])) == 2


def test_the_same_numbers_give_the_same_bytes_whatever_the_user_has_set():
    first = plots.plot_sweep(SWEEP)
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        assert plots.plot_sweep(SWEEP) == first


def test_drawing_leaves_the_settings_of_a_user_as_they_are():
    with matplotlib.rc_context({"font.size": 30}):
        curves.plot_lines([Series([1.0, 2.0], [1.0, 2.0])])
        assert matplotlib.rcParams["font.size"] == 30


def test_a_plot_has_no_letters_that_need_a_font_and_nothing_from_outside():
    for svg in (plots.plot_sweep(SWEEP), plots.plot_trade_off(SWEEP)):
        root = ElementTree.fromstring(svg)
        tags = {element.tag.removeprefix(SVG) for element in root.iter()}
        assert not tags & {"text", "style", "script", "metadata", "foreignObject"}
        addresses = set(re.findall(r"https?://[^\"' ]+", svg))
        assert addresses <= {
            "http://www.w3.org/2000/svg",
            "http://www.w3.org/1999/xlink",
        }
        assert "currentColor" in svg and drawing.INK not in svg


def test_a_title_is_text_whatever_it_holds():
    svg = curves.plot_lines([Series([1.0, 2.0], [1.0, 2.0])], title='<b a="1">&')
    assert ElementTree.fromstring(svg).get("aria-label") == '<b a="1">&'


def raster(svg):
    source = re.search(r"data:image/png;base64,\s*([^\"]+)", svg)
    with Image.open(io.BytesIO(base64.b64decode(source.group(1)))) as image:
        pixels = np.asarray(image.convert("RGBA")).astype(int)
    # Stored from below, and turned over where it is shown.
    assert "scale(1 -1)" in re.search(r"<image[^>]*>", svg).group()
    return pixels[::-1]


def test_a_heat_map_has_a_cell_for_each_value_and_a_hole_for_none():
    values = np.array([[1.0, np.nan], [100.0, 10.0]])
    cells = raster(curves.plot_heat_map(values, [1.0, 2.0], ["a", "b"], log=True))
    h, w = (side // 4 for side in cells.shape[:2])
    low, none = cells[3 * h, w], cells[3 * h, 3 * w]
    high, middle = cells[h, w], cells[h, 3 * w]
    assert none[3] == 0 and low[3] == high[3] == middle[3] == 255
    # The scale is from light to dark.
    assert low[:3].sum() > middle[:3].sum() > high[:3].sum()


@pytest.mark.parametrize("values", [[[2.0, 2.0]], [[0.0, 0.0]], [[np.nan, np.nan]]])
def test_a_heat_map_of_one_value_or_none_is_still_a_plot(values):
    for log in (False, True):
        svg = curves.plot_heat_map(np.array(values), [1.0, 2.0], ["a"], log=log)
        ElementTree.fromstring(svg)


@given(st.integers(1, 2000), st.integers(1, 400))
def test_thinning_keeps_the_mean_and_the_range(n, most):
    y = np.cos(np.arange(n) * 1.7)
    x, mean, low, high = curves.downsample(np.arange(n), y, most)
    assert len(x) == min(n, most)
    assert (np.diff(x) > 0).all()
    assert low.min() == y.min() and high.max() == y.max()
    assert (low <= mean + 1e-12).all() and (mean <= high + 1e-12).all()
    if n % most == 0:  # bins of one size: 2000 summands lose a few of 16 digits
        assert mean.mean() == pytest.approx(y.mean(), abs=1e-12)


def test_thinning_leaves_out_what_is_not_finite():
    x, mean, _, _ = curves.downsample([1, 2, 3], [1.0, float("nan"), 3.0])
    assert x.tolist() == [1, 3] and mean.tolist() == [1, 3]


def test_a_sweep_has_a_line_for_each_number_of_steps():
    svg = plots.plot_sweep(SWEEP)
    for colour in drawing.PALETTE[:2]:
        assert sum(len(p) == 3 for p in paths(svg, colour)) == 3  # two metrics, legend
    assert not paths(svg, drawing.PALETTE[2])


def test_a_sweep_at_one_guidance_goes_along_the_steps():
    points = [point(2.0, steps, fid_1k=1 / steps) for steps in (40, 10, 20)]
    svg = plots.plot_sweep(points)
    assert 'aria-label="metrics against steps"' in svg
    drawn = next(p for p in paths(svg, drawing.PALETTE[0]) if len(p) == 3)
    assert np.diff(drawn[:, 0]) == pytest.approx(
        [np.diff(drawn[:2, 0])[0] * k for k in (1, 2)], rel=1e-3
    )


def test_a_known_error_is_a_band_of_95_percent():
    known = point(2.0, fid_1k=1.0) | {"standard_errors": {"fid_1k": 0.1}}
    assert plots.bounds(known, "fid_1k") == pytest.approx((0.804, 1.196))
    known |= {"intervals": {"fid_1k": [0.7, 1.4]}}
    assert plots.bounds(known, "fid_1k") == (0.7, 1.4)
    assert np.isnan(plots.bounds(point(2.0, fid_1k=1.0), "fid_1k")).all()


def test_trade_offs_are_shown_where_both_sides_are_known():
    both = [point(g, precision_1k=g / 9, recall_1k=1 - g / 9) for g in (1.0, 2.0, 3.0)]
    drawn = [
        p for p in paths(plots.plot_trade_off(both), drawing.PALETTE[0]) if len(p) == 3
    ]
    (line,) = drawn  # more precision, less recall: left and up
    assert (np.diff(line[:, 0]) < 0).all() and (np.diff(line[:, 1]) < 0).all()
    assert (
        plots.plot_trade_off([point(1.0, recall_1k=0.1), point(2.0, recall_1k=0.2)])
        is None
    )
    apart = [point(g, precision_1k=0.1, recall_scenes_1k=0.1) for g in (1.0, 2.0)]
    assert plots.plot_trade_off(apart) is None  # of two networks


def test_a_table_marks_the_best_of_each_metric():
    text = plots.format_markdown(SWEEP)
    header, rule, *rows = text.splitlines()
    assert header.startswith("| guidance | steps | calls | fd_scenes_2k ↓ |")
    assert len(rows) == len(SWEEP)
    assert {line.count("|") for line in (header, rule, *rows)} == {6}
    best = [re.findall(r"\*\*(.+?)\*\*", row) for row in rows]
    # Least distance at guidance 2 with 24 steps; the first of two equal accuracies.
    assert best == [[], [], ["0.8"], [], ["0.04167"], []]


def test_a_table_names_intervals_where_they_differ():
    points = [point(2.0, fid_1k=1.0), point(2.0, low=-3.0, high=4.0, fid_1k=2.0)]
    found = plots.build_table(points)
    assert found.header[:2] == ["guidance", "interval"]
    assert [row[1] for row in found.rows] == ["everywhere", "logsnr -3 to 4"]


def test_a_sweep_without_metrics_is_none():
    assert plots.plot_sweep([]) is None
    assert plots.plot_sweep([point(1.0, held_out_images=3.0)]) is None


@pytest.mark.parametrize(
    "value, text",
    [(0.42171, "0.4217"), (10_000, "10,000"), (480.0, "480"), (None, "none")],
)
def test_numbers_are_short(value, text):
    assert plots.format_number(value) == text
