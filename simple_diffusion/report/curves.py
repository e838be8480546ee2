"""Plots of a training: lines over steps, and tables as colours."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colors, ticker
from matplotlib.figure import Figure

from simple_diffusion.report import drawing
from simple_diffusion.report.drawing import Series, Values

# Points of a curve: more cannot be told apart, and make the file large.
MOST = 300


def lines(
    series: Sequence[Series],
    *,
    title: str = "",
    x_label: str = "",
    y_label: str = "",
    log_x: bool = False,
    log_y: bool = False,
    ordered: bool = False,
) -> str:
    """Returns a plot of lines.

    Args:
      series: the lines, in the order of the legend.
      title: above it.
      x_label: below it.
      y_label: beside it.
      log_x: whether the x axis is logarithmic.
      log_y: whether the y axis is; what is not positive has no place on it.
      ordered: whether the series are steps of one quantity: then their colours are a
        scale, and their names stand at the ends of the lines.
    """
    with drawing.style():
        figure = Figure(figsize=(drawing.WIDTH, drawing.HEIGHT), layout="constrained")
        axes = figure.subplots()
        drawing.draw(axes, series, ordered=ordered)
        drawing.dress(axes, title, x_label, y_label, log_x, log_y)
        return drawing.svg(figure, title)


def heat_map(
    values: np.ndarray,
    x: Values,
    rows: Sequence[str],
    *,
    title: str = "",
    x_label: str = "",
    y_label: str = "",
    value_label: str = "",
    log: bool = False,
) -> str:
    """Returns a plot of a table as colours.

    Args:
      values: [len(rows), len(x)]; nan is left open.
      x: where the columns are, increasing.
      rows: names of the rows, from below.
      title: above it.
      x_label: below it.
      y_label: beside it.
      value_label: beside the scale of colours.
      log: whether colours go by the logarithm; what is not positive is left open.
    """
    shown = np.asarray(values, float)
    shown = np.where((shown > 0) if log else True, shown, np.nan)
    finite = shown[np.isfinite(shown)]
    # A few outliers would take all the colours for themselves.
    low, high = np.percentile(finite, [1, 99]) if finite.size else (1.0, 1.0)
    if low == high:
        low, high = low - 0.1 * abs(low), high + (0.1 * abs(high) or 1.0)
    norm = (colors.LogNorm if log else colors.Normalize)(low, high)
    with drawing.style():
        figure = Figure(
            figsize=(drawing.WIDTH, drawing.HEIGHT),
            dpi=drawing.DPI,
            layout="constrained",
        )
        axes = figure.subplots()
        mesh = axes.pcolormesh(
            *(_edges(x), np.arange(len(rows) + 1.0), np.ma.masked_invalid(shown)),
            norm=norm,
            cmap="magma_r",
            rasterized=True,  # thousands of cells as paths would have seams, and weigh
        )
        axes.set_yticks(np.arange(len(rows)) + 0.5, list(rows))
        drawing.dress(axes, title, x_label, y_label)
        axes.grid(False)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(6))
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(drawing.thousands))
        bar = figure.colorbar(mesh, ax=axes, label=value_label, pad=0.02)
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
        return drawing.svg(figure, title)


def thin(
    x: Values, y: Values, most: int = MOST
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns (x, mean, lowest, highest) of at most so many bins of a long curve.

    Values that are not finite are left out.

    Args:
      x: where the points are, in order.
      y: their heights.
      most: points to keep. A shorter curve stays as it is.
    """
    xs, ys = drawing.floats(x), drawing.floats(y)
    known = np.isfinite(xs) & np.isfinite(ys)
    xs, ys = xs[known], ys[known]
    if len(xs) <= most:
        return xs, ys, ys, ys
    starts = np.linspace(0, len(xs), most, endpoint=False).astype(int)
    sizes = np.diff([*starts, len(xs)])
    return (
        np.add.reduceat(xs, starts) / sizes,
        np.add.reduceat(ys, starts) / sizes,
        np.minimum.reduceat(ys, starts),
        np.maximum.reduceat(ys, starts),
    )


def _edges(x: Values) -> np.ndarray:
    """Returns bounds between values of x, and beyond the first and the last."""
    at = drawing.floats(x)
    if len(at) == 1:
        return np.array([at[0] - 0.5, at[0] + 0.5])
    middle = (at[1:] + at[:-1]) / 2
    return np.concatenate([[2 * at[0] - middle[0]], middle, [2 * at[-1] - middle[-1]]])
