"""Plots as SVG, reproducible byte for byte and with one style.

Letters are drawn as paths, so no font is needed. Text and axes use `currentColor` and
the background is transparent, so plots fit into light and dark pages; a viewer shows a
separate file on white.
"""

import contextlib
import io
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib import colors, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Distinguishable with most colour vision, and legible on white and on black.
PALETTE = ("#3b82c4", "#e0762a", "#3a9d6b", "#cf4f5c", "#8c6bc8", "#a3823a", "#3fa3ab")
MARKERS = "osD^vP*"

# Inches, of one plot.
WIDTH, HEIGHT = 5.2, 3.1

# Placeholder for `currentColor`, which matplotlib does not know; used nowhere else.
INK = "#010203"
# Resolution of embedded raster images.
DPI = 144
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "simple_diffusion",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-4, 6),
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 8,
    **dict.fromkeys(
        ["text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color"], INK
    ),
    **dict.fromkeys(["ytick.color", "grid.color", "axes.titlecolor"], INK),
}
_NO_METADATA = dict.fromkeys(["Date", "Creator", "Format", "Type"])


# Numbers, None where one is missing.
Values = Sequence[float | int | None] | np.ndarray


class Series(NamedTuple):
    """A line of a plot.

    x: positions of the points.
    y: their values; nan leaves a gap.
    label: in the legend; "" for none.
    low: lower bound of a band around the line; nan for none.
    high: upper bound.
    best: index of the point to mark with a star.
    marks: whether each point has a marker.
    """

    x: Values
    y: Values
    label: str = ""
    low: Values | None = None
    high: Values | None = None
    best: int | None = None
    marks: bool = False


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Applies the style of the report, independent of the user's settings."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        for key, value in _STYLE.items():
            matplotlib.rcParams[key] = value
        yield


def draw_series(
    axes: Axes, series: Sequence[Series], ordered: bool = False, legend: bool = True
) -> None:
    """Draws lines into axes.

    Args:
      axes: the axes.
      series: the lines.
      ordered: whether they are levels of one quantity; see `curves.plot_lines`.
      legend: whether to draw a legend.
    """
    scale = matplotlib.colormaps["viridis"]
    for k, one in enumerate(series):
        colour = PALETTE[k % len(PALETTE)]
        if ordered:
            colour = colors.to_hex(scale(0.08 + 0.72 * k / max(1, len(series) - 1)))
        x, y = to_floats(one.x), to_floats(one.y)
        # A single point would be invisible without a marker.
        marker = MARKERS[k % len(MARKERS)] if one.marks or len(x) == 1 else None
        axes.plot(x, y, color=colour, marker=marker, label=one.label or None)
        if one.low is not None and one.high is not None:
            _band(axes, x, to_floats(one.low), to_floats(one.high), colour, one.marks)
        if one.best is not None:
            best = axes.plot(x[one.best], y[one.best], "*", color=colour, zorder=1.9)
            best[0].set(markersize=14, markeredgecolor=INK, markeredgewidth=0.7)
    if ordered:
        _name_ends(axes, series)
    elif legend and any(one.label for one in series):
        _legend(axes, len(series))


def label_axes(
    axes: Axes,
    title: str = "",
    x_label: str = "",
    y_label: str = "",
    log_x: bool = False,
    log_y: bool = False,
) -> None:
    """Sets title, labels, scales and grid of axes."""
    axes.set_title(title)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    shown = [np.asarray(line.get_data(), float) for line in axes.get_lines()]
    for log, which, set_scale in (
        (log_x, 0, axes.set_xscale),
        (log_y, 1, axes.set_yscale),
    ):
        # Without positive values a logarithmic plot would be empty.
        if log and any((data[which] > 0).any() for data in shown):
            set_scale("log")
    if axes.get_xscale() == "linear" and _has_integer_steps(shown):
        axes.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(format_thousands))
    axes.grid(True, alpha=0.16, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.patch.set_visible(False)


def to_svg(figure: Figure, title: str = "") -> str:
    """Returns a figure as an `<svg>` element without prologue, date and comments."""
    figure.patch.set_visible(False)
    buffer = io.StringIO()
    with style():
        figure.savefig(buffer, format="svg", metadata=_NO_METADATA, dpi=DPI)
    text = buffer.getvalue()
    text = re.sub(r"<!--.*?-->\n?", "", text[text.index("<svg") :], flags=re.S)
    text = text.replace(INK, "currentColor")
    # Style of the root element only: a style sheet would apply to the page around it.
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.S)
    joins = "stroke-linejoin: round; stroke-linecap: butt"
    head = f' role="img" style="background: white; {joins}"'
    name = title.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    label = f' aria-label="{name}"' if name else ""
    return text.replace("<svg", f"<svg{head}{label}", 1)


def _band(
    axes: Axes,
    x: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    colour: str,
    marks: bool,
) -> None:
    known = np.isfinite(low) & np.isfinite(high)
    if marks:  # over few points error bars are clearer than a band
        axes.vlines(x[known], low[known], high[known], color=colour, linewidth=1)
    axes.fill_between(
        x, low, high, where=known.tolist(), color=colour, alpha=0.16, lw=0
    )


def _legend(axes: Axes, count: int) -> None:
    # A long legend is below the plot, where it hides nothing.
    if count > 4:
        axes.figure.legend(loc="outside lower center", ncols=3)
    else:
        axes.legend()


def _name_ends(axes: Axes, series: Sequence[Series]) -> None:
    """Writes the name of each line beside its end, without overlaps."""
    ends = [(to_floats(one.y)[-1], k) for k, one in enumerate(series) if len(one.y)]
    ends = sorted((math.log(y), k) for y, k in ends if y > 0)
    if not ends:
        return
    axes.set_yscale("log")
    low, high = (math.log(y) for y in axes.get_ylim())
    gap, places = 0.062, [(y - low) / (high - low) for y, _ in ends]
    for k in range(1, len(places)):
        places[k] = max(places[k], places[k - 1] + gap)
    places[-1] = min(places[-1], 1.0)
    for k in reversed(
        range(len(places) - 1)
    ):  # below those that were moved down from the top
        places[k] = min(places[k], places[k + 1] - gap)
    for (_, k), height in zip(ends, places, strict=True):
        axes.text(
            *(1.015, height, series[k].label),
            transform=axes.transAxes,
            va="center",
            fontsize=7.5,
            color=axes.get_lines()[k].get_color(),
        )


def _has_integer_steps(shown: list[np.ndarray]) -> bool:
    xs = np.concatenate([data[0] for data in shown]) if shown else np.array([0.5])
    return bool(np.all(xs == np.round(xs))) and float(np.ptp(xs)) > 5


def format_thousands(value: float, _: Any = None) -> str:
    """Formats 12000 as "12k", for the steps on an axis."""
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"


def to_floats(values: Values) -> np.ndarray:
    """Returns an array with nan for None."""
    return np.array([np.nan if v is None else v for v in values], float)
