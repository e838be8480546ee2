"""Plots of a training run: curves over steps, and heat maps."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colors, ticker
from matplotlib.figure import Figure

from simple_diffusion.report import drawing
from simple_diffusion.report.drawing import Series, Values

# Points per curve: more cannot be distinguished, and make the file large.
MAX_POINTS = 300


def plot_lines(
    series: Sequence[Series],
    *,
    title: str = "",
    x_label: str = "",
    y_label: str = "",
    log_x: bool = False,
    log_y: bool = False,
    ordered: bool = False,
) -> str:
    """Returns a plot of lines as SVG.

    Args:
      series: the lines, in the order of the legend.
      title: above the plot.
      x_label: of the x axis.
      y_label: of the y axis.
      log_x: whether the x axis is logarithmic.
      log_y: whether the y axis is logarithmic; values that are not positive are hidden.
      ordered: whether the series are levels of one quantity: then their colours follow
        a colour scale, and their names are at the ends of the lines.
    """
    with drawing.style():
        figure = Figure(figsize=(drawing.WIDTH, drawing.HEIGHT), layout="constrained")
        axes = figure.subplots()
        drawing.draw_series(axes, series, ordered=ordered)
        drawing.label_axes(axes, title, x_label, y_label, log_x, log_y)
        return drawing.to_svg(figure, title)


def plot_heat_map(
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
    """Returns a heat map as SVG.

    Args:
      values: [len(rows), len(x)]; cells with nan are transparent.
      x: positions of the columns, increasing.
      rows: names of the rows, from the bottom.
      title: above the plot.
      x_label: of the x axis.
      y_label: of the y axis.
      value_label: of the colour bar.
      log: whether colours are logarithmic; then cells that are not positive are
        transparent.
    """
    shown = np.asarray(values, float)
    shown = np.where((shown > 0) if log else True, shown, np.nan)
    finite = shown[np.isfinite(shown)]
    # Percentiles, because a few outliers would use the full colour range.
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
            rasterized=True,  # paths of cells would show seams and need space
        )
        axes.set_yticks(np.arange(len(rows)) + 0.5, list(rows))
        drawing.label_axes(axes, title, x_label, y_label)
        axes.grid(False)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(6))
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(drawing.format_thousands))
        bar = figure.colorbar(mesh, ax=axes, label=value_label, pad=0.02)
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
        return drawing.to_svg(figure, title)


def downsample(
    x: Values, y: Values, max_points: int = MAX_POINTS
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns (x, mean, minimum, maximum) of the bins of a long curve.

    Values that are not finite are skipped.

    Args:
      x: positions of the points, in order.
      y: their values.
      max_points: number of bins. A shorter curve is returned as it is.
    """
    xs, ys = drawing.to_floats(x), drawing.to_floats(y)
    known = np.isfinite(xs) & np.isfinite(ys)
    xs, ys = xs[known], ys[known]
    if len(xs) <= max_points:
        return xs, ys, ys, ys
    starts = np.linspace(0, len(xs), max_points, endpoint=False).astype(int)
    sizes = np.diff([*starts, len(xs)])
    return (
        np.add.reduceat(xs, starts) / sizes,
        np.add.reduceat(ys, starts) / sizes,
        np.minimum.reduceat(ys, starts),
        np.maximum.reduceat(ys, starts),
    )


def _edges(x: Values) -> np.ndarray:
    """Returns cell edges: between the values of x, and outside of the ends."""
    at = drawing.to_floats(x)
    if len(at) == 1:
        return np.array([at[0] - 0.5, at[0] + 0.5])
    middle = (at[1:] + at[:-1]) / 2
    return np.concatenate([[2 * at[0] - middle[0]], middle, [2 * at[-1] - middle[-1]]])
