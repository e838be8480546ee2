"""Plots and table of a sweep, as SVG and Markdown."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simple_diffusion.evaluation import metric_names
from simple_diffusion.report import drawing
from simple_diffusion.report.drawing import Series

Point = Mapping[str, Any]


class Table(NamedTuple):
    """A table of text.

    header: names of the columns.
    rows: their cells.
    best: (row, column) of the cells with the best value of a metric.
    """

    header: list[str]
    rows: list[list[str]]
    best: set[tuple[int, int]]


def plot_sweep(points: Sequence[Point]) -> str | None:
    """Returns plots of the metrics over guidance as SVG; None without metrics.

    One plot per metric, one line per number of steps and guidance interval, with 95%
    intervals if known. With a single guidance the x axis is the number of steps.

    Args:
      points: of a `sweep.json`.
    """
    metrics = select_metrics([point["metrics"] for point in points])
    if not metrics:
        return None
    along = "guidance" if len({p["guidance"] for p in points}) > 1 else "steps"
    columns = min(3, len(metrics))
    rows = math.ceil(len(metrics) / columns)
    with drawing.style():
        size = (columns * 0.72 * drawing.WIDTH, rows * 0.85 * drawing.HEIGHT + 0.3)
        figure = Figure(figsize=size, layout="constrained")
        every = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, name in zip(every, metrics, strict=False):
            shown = _sweep_series(points, name, along)
            drawing.draw_series(axes, shown, legend=False)
            drawing.label_axes(axes, f"{name} {arrow(name)}", along)
        for axes in every[len(metrics) :]:
            axes.remove()
        _shared_legend(figure, every[0])
        return drawing.to_svg(figure, f"metrics against {along}")


def plot_trade_off(points: Sequence[Point]) -> str | None:
    """Returns the trade-offs of guidance as SVG; None without a pair of metrics.

    Precision over recall, and a Fréchet distance over accuracy or, without that, over
    the class score. The ends of each line are marked with their guidance.

    Args:
      points: of a `sweep.json`.
    """
    pairs = _pairs(select_metrics([point["metrics"] for point in points]))
    if not pairs or len(points) < 2:
        return None
    with drawing.style():
        figure = Figure(
            figsize=(len(pairs) * 0.9 * drawing.WIDTH, 1.15 * drawing.HEIGHT),
            layout="constrained",
        )
        every = figure.subplots(1, len(pairs), squeeze=False).ravel()
        for axes, (across, up) in zip(every, pairs, strict=True):
            shown = []
            for label, group in _groups(points, "guidance"):
                both = [p for p in group if {across, up} <= p["metrics"].keys()]
                xs, ys = ([p["metrics"][k] for p in both] for k in (across, up))
                shown.append(Series(xs, ys, label, marks=True))
                for p, x, y in [*zip(both, xs, ys, strict=True)][
                    :: max(1, len(xs) - 1)
                ]:
                    axes.annotate(
                        *(f"{p['guidance']:g}", (x, y)),
                        **dict(xytext=(4, 3), textcoords="offset points", fontsize=7),
                    )
            drawing.draw_series(axes, shown, legend=False)
            x_label, y_label = (f"{name} {arrow(name)}" for name in (across, up))
            drawing.label_axes(axes, "", x_label, y_label)
        _shared_legend(figure, every[0])
        return drawing.to_svg(figure, "trade-offs of guidance")


def build_table(points: Sequence[Point], errors: bool = True) -> Table:
    """Returns the settings and metrics of a sweep, one row per point.

    Args:
      points: of a `sweep.json`.
      errors: whether to show intervals or errors beside the values.
    """
    show = format_with_error if errors else _value
    metrics = select_metrics([point["metrics"] for point in points])
    intervals = len({_interval(point) for point in points}) > 1
    header = ["guidance", *(["interval"] if intervals else []), "steps", "calls"]
    rows = [
        [
            f"{p['guidance']:g}",
            *([_interval(p)] if intervals else []),
            *(str(p.get(key, "")) for key in ("steps", "network_calls")),
            *(show(p, name) for name in metrics),
        ]
        for p in points
    ]
    best = set()
    for k, name in enumerate(metrics):
        row = metric_names.best_index(name, [p["metrics"].get(name) for p in points])
        if row is not None:
            best.add((row, len(header) + k))
    return Table([*header, *(f"{m} {arrow(m)}" for m in metrics)], rows, best)


def format_markdown(points: Sequence[Point]) -> str:
    """Returns `build_table` as Markdown, with the best value of each metric in bold."""
    found = build_table(points)
    rows = [
        [f"**{cell}**" if (y, x) in found.best else cell for x, cell in enumerate(row)]
        for y, row in enumerate(found.rows)
    ]
    lines = [found.header, ["---:"] * len(found.header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def select_metrics(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the metrics with a better direction, in order, without bins of a loss."""
    every = {name: None for record in records for name in record}
    return [
        n for n in every if "[" not in n and metric_names.is_lower_better(n) is not None
    ]


def _value(record: Point, name: str) -> str:
    value = record["metrics"].get(name)
    return "" if value is None else format_number(value)


def format_with_error(record: Point, name: str) -> str:
    """Formats a metric of a record with its 95% interval or error."""
    value = record["metrics"].get(name)
    if value is None:
        return ""
    text = format_number(value)
    interval = record.get("intervals", {}).get(name)
    if interval:
        return f"{text} [{format_number(interval[0])}, {format_number(interval[1])}]"
    error = record.get("standard_errors", {}).get(name)
    return text if error is None else f"{text} ± {format_number(error)}"


def format_number(value: float | int | None) -> str:
    """Formats a number with four digits: 0.4217, 12.34, 10,000."""
    if value is None:
        return "none"
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e9):
        return f"{int(value):,}"
    return f"{value:.4g}"


def arrow(name: str) -> str:
    """Returns an arrow in the direction of better values; "" if there is none."""
    return {True: "↓", False: "↑", None: ""}[metric_names.is_lower_better(name)]


def _sweep_series(points: Sequence[Point], name: str, along: str) -> list[Series]:
    shown = []
    for label, group in _groups(points, along):
        known = [p for p in group if p["metrics"].get(name) is not None]
        ends = [bounds(p, name) for p in known]
        shown.append(
            Series(
                [p[along] for p in known],
                [p["metrics"][name] for p in known],
                label,
                low=[low for low, _ in ends],
                high=[high for _, high in ends],
                marks=True,
            )
        )
    return shown


def bounds(point: Point, name: str) -> tuple[float, float]:
    """Returns the 95% interval of a metric; nan if unknown."""
    interval = point.get("intervals", {}).get(name)
    if interval:
        return interval[0], interval[1]
    error = point.get("standard_errors", {}).get(name)
    value = point["metrics"][name]
    return (
        (np.nan, np.nan)
        if error is None
        else (
            value - 1.96 * error,
            value + 1.96 * error,
        )
    )


def _groups(points: Sequence[Point], along: str) -> list[tuple[str, list[Point]]]:
    """Returns (label, sorted points) of each line of a sweep."""
    groups: dict[tuple, list[Point]] = {}
    for point in points:
        other = point.get("steps") if along == "guidance" else point["guidance"]
        groups.setdefault((other, _interval(point)), []).append(point)
    several = len({other for other, _ in groups}) > 1
    labelled = []
    for (other, interval), group in groups.items():
        words = [f"{other} steps" if along == "guidance" else f"guidance {other:g}"]
        words = words if several or len({i for _, i in groups}) < 2 else []
        words += [interval] if len({i for _, i in groups}) > 1 else []
        label = ", ".join(words) if len(groups) > 1 else ""
        labelled.append((label, sorted(group, key=lambda p: p[along])))
    return labelled


def _interval(point: Point) -> str:
    """Formats the guidance interval in logsnr."""
    low, high = point.get("guidance_low"), point.get("guidance_high")
    if low is None and high is None:
        return "everywhere"
    ends = ("-∞" if low is None else f"{low:g}", "∞" if high is None else f"{high:g}")
    return f"logsnr {ends[0]} to {ends[1]}"


def _pairs(metrics: Sequence[str]) -> list[tuple[str, str]]:
    """Returns pairs of metrics to plot, each of one network and number of samples."""
    by_network: dict[tuple, dict[str, str]] = {}
    for name in metrics:
        kind, *network = metric_names.split_name(name)
        by_network.setdefault(tuple(network), {})[kind] = name
    pairs = []
    for found in by_network.values():
        distance = found.get("fid", found.get("fd"))
        scores = ("accuracy", "inception_score", "class_score")
        score = next((found[kind] for kind in scores if kind in found), None)
        if "precision" in found and "recall" in found:
            pairs.append((found["recall"], found["precision"]))
        if distance and score:
            pairs.append((score, distance))
    return pairs


def _shared_legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        figure.legend(
            *(handles, labels), loc="outside lower center", ncols=min(4, len(labels))
        )
