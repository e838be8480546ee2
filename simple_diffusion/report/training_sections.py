"""Sections of a report on metrics.jsonl: curves over the training."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from simple_diffusion.report import curves, page
from simple_diffusion.report.drawing import Series
from simple_diffusion.report.page import Section

Record = Mapping[str, Any]

# Maximum number of columns of a heat map: more cannot be distinguished.
_MAX_COLUMNS = 60
_AT_LOGSNR = "loss_at_logsnr/"
_CURVES = (
    # name, title, logarithmic
    ("loss", "loss", True),
    ("grad_norm", "gradient norm", True),
    ("learning_rate", "learning rate", False),
    ("images_per_second", "images per second", False),
)


def training_curves(lines: Sequence[Record]) -> Section | None:
    """Returns the curves of `metrics.jsonl`."""
    every = []
    for key, title, log in _CURVES:
        x, y = _column(lines, key)
        skipped = sum(not np.isfinite(v) for v in y)
        xs, mean, low, high = curves.downsample(x, y)
        if not len(xs):
            continue
        one = Series(xs, mean, low=low, high=high)
        caption = (
            f"{skipped} value(s) that are not finite are hidden" if skipped else ""
        )
        log = log and bool((mean > 0).all())
        svg = curves.plot_lines([one], title=title, x_label="step", log_y=log)
        every.append(page.plot(svg, caption))
    if not every:
        return None
    text = ""
    if len(lines) > curves.MAX_POINTS:
        text = page.paragraph(
            f"Each point is the mean of {len(lines) / curves.MAX_POINTS:.0f} log "
            "lines; the band is the range of their values."
        )
    return Section("training", "Training", text + page.plots(every))


def loss_by_logsnr(lines: Sequence[Record]) -> Section | None:
    """Returns the loss in each bin of logsnr over the training."""
    bins = list(dict.fromkeys(k for m in lines for k in m if k.startswith(_AT_LOGSNR)))
    bins = sorted(bins, key=bin_start)
    labels = [bin_name(name) for name in bins]
    binned = [curves.downsample(*_column(lines, name), max_points=150) for name in bins]
    series = [Series(f[0], f[1], n) for f, n in zip(binned, labels, strict=True)]
    steps = np.array([m["step"] for m in lines], float)
    if not any(len(one.x) for one in series) or len(np.unique(steps)) < 2:
        return None
    edges = np.linspace(steps.min(), steps.max(), min(_MAX_COLUMNS, len(steps)) + 1)
    relative = np.stack([_relative(lines, name, edges) for name in bins])
    every = [
        curves.plot_lines(
            series, title="loss by logsnr", x_label="step", log_y=True, ordered=True
        ),
        curves.plot_heat_map(
            relative,
            (edges[1:] + edges[:-1]) / 2,
            labels,
            title="loss, relative to the end",
            x_label="step",
            y_label="logsnr",
            log=True,
        ),
    ]
    text = page.paragraph(
        "Mean loss of the examples in each bin of logsnr, from pure noise (low) to "
        "almost clean (high). On the right each bin is divided by its mean over the "
        "last tenth of the training."
    )
    body = text + page.plots(page.plot(svg) for svg in every)
    return Section("logsnr", "Loss by noise level", body)


def _bounds(name: str) -> tuple[str, str]:
    """Returns ("", "-12") for loss_at_logsnr/..-12 and held_out_loss[-inf,-12)."""
    text = name.split("/")[-1].split("[")[-1].rstrip(")")
    low, _, high = text.partition("," if "," in text else "..")
    return low.replace("-inf", ""), high.replace("inf", "")


def bin_start(name: str) -> float:
    """Returns the lower bound of a bin, to sort by."""
    return float(_bounds(name)[0] or "-inf")


def bin_name(name: str) -> str:
    """Formats a bin: -12 to -9, above 12."""
    low, high = _bounds(name)
    if low and high:
        return f"{low} to {high}"
    return f"above {low}" if low else f"below {high}"


def _relative(lines: Sequence[Record], name: str, edges: np.ndarray) -> np.ndarray:
    """Returns the mean of a curve between edges, divided by that of its last tenth."""
    x, y = (np.array(v, float) for v in _column(lines, name))
    known = np.isfinite(y)
    x, y = x[known], y[known]
    late = y[-math.ceil(len(y) / 10) :]
    place = np.clip(np.searchsorted(edges, x, "right") - 1, 0, len(edges) - 2)
    sums, counts = (np.bincount(place, w, len(edges) - 1) for w in (y, None))
    means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return means / late.mean() if late.size and late.mean() > 0 else means * np.nan


def _column(lines: Sequence[Record], key: str) -> tuple[list[float], list[float]]:
    """Returns (steps, values) of the lines that have a number under the key."""
    known = [m for m in lines if isinstance(m.get(key), (int, float))]
    return [float(m["step"]) for m in known], [float(m[key]) for m in known]
