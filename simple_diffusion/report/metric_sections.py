"""Sections of a report on evaluations: tables and plots."""

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from simple_diffusion.core import files
from simple_diffusion.evaluation import metric_names
from simple_diffusion.report import curves, page, plots, training_sections
from simple_diffusion.report.drawing import Series
from simple_diffusion.report.page import Section

Record = Mapping[str, Any]

# Settings that evaluations on one line must share, with their text in a legend.
_SETTINGS = {
    "weights": "{}",
    "solver": "{}",
    "network_calls": "{} calls",
    "guidance": "guidance {}",
    "guidance_interval": "guided in logsnr {}",
    "size": "size {}",
    "labels": "labels {}",
    "seed": "seed {}",
    "reference": "against {}",
    "networks": "networks {}",
}
_SHOWN_ELSEWHERE = (
    "metrics",
    "intervals",
    "standard_errors",
    "counts",
    "baselines",
    "config",
    "notes",
)


def metrics(record: Record, training: Record) -> Section:
    """Returns the newest evaluation of the model.

    Args:
      record: of `metrics.json`.
      training: config of the training; the section lists keys that differ.
    """
    text = (
        page.facts(describe_settings(record)) + metrics_table(record) + _notes(record)
    )
    text += _conditions(record)
    text += _held_out_by_logsnr(record["metrics"])
    config = record.get("config") or {}
    changed = [
        line
        for section in ("data", "model", "diffusion")
        if section in config and section in training
        for line in files.list_differences(training[section], config[section], section)
    ]
    if changed:
        lines = "<br>".join(map(page.escape, changed))
        text += page.details(
            "Settings that differ from the training", f"<p>{lines}</p>"
        )
    text += page.details("Everything about this evaluation", page.config(_rest(record)))
    return Section("metrics", "Metrics", text)


def comparison(record: Record) -> Section:
    """Returns the newest evaluation of folders: `comparison.json`."""
    text = (
        page.facts(describe_settings(record)) + metrics_table(record) + _notes(record)
    )
    text += page.details("Everything about this comparison", page.config(_rest(record)))
    return Section("comparison", "Comparison of folders", text)


def _notes(record: Record) -> str:
    """Returns the notes of the evaluation: which metrics are biased or missing."""
    return "".join(page.paragraph(str(note)) for note in record.get("notes") or ())


def metrics_table(record: Record) -> str:
    """Returns the metrics with their intervals, errors and numbers of images."""
    intervals, errors = (record.get(k) or {} for k in ("intervals", "standard_errors"))
    counts = record.get("counts") or {}
    rows = []
    for name, value in record["metrics"].items():
        if "[" in name:  # a bin of logsnr: shown as a plot
            continue
        spread = ""
        if interval := intervals.get(name):
            spread = " to ".join(map(plots.format_number, interval[:2]))
        elif (error := errors.get(name)) is not None:
            spread = f"± {plots.format_number(error)}"
        generated, real = (*map(_number, counts.get(name) or ()), None, None)[:2]
        direction = plots.arrow(name)
        rows.append(
            [
                name,
                plots.format_number(value),
                direction,
                spread,
                generated or "",
                real or "",
                metric_names.explain(name),
            ]
        )
    header = [
        "metric",
        "value",
        "",
        "95% or ± s.e.",
        "generated",
        "reference",
        "what it is",
    ]
    return page.table(header, rows, numbers=(1, 4, 5), names=(0,))


def _conditions(record: Record) -> str:
    """Returns the metrics of the conditions beside their baselines; "" without any."""
    baselines = record.get("baselines") or {}
    known = {name: v for name, v in baselines.items() if name in record["metrics"]}
    if not known:
        return ""
    titles = list(dict.fromkeys(title for v in known.values() for title in v))
    rows = [
        [
            f"{name} {plots.arrow(name)}".strip(),
            plots.format_with_error(record, name),
            *(
                plots.format_number(beside[title]) if title in beside else ""
                for title in titles
            ),
        ]
        for name, beside in known.items()
    ]
    text = page.paragraph(
        "Whether samples show what they were asked for. What is read wrongly from real "
        "images is an error of the reader, not of a sample; the other columns need no "
        "model."
    )
    header = ["metric", "samples", *titles]
    table = page.table(header, rows, numbers=range(1, len(header)), names=(0,))
    return page.heading("Conditions") + text + table


def describe_settings(record: Record) -> dict[str, str | None]:
    """Returns the settings of an evaluation as text."""
    size, guidance = record.get("size"), record.get("guidance")
    network = [
        ", ".join(
            part
            for part in (
                name,
                f"weights {how['digest']}" if how.get("digest") else "",
                f"resize {how['resize']}" if how.get("resize") else "",
            )
            if part
        )
        for name, how in (record.get("networks") or {}).items()
    ]
    return {
        "checkpoint step": _number(record.get("step")),
        "weights": record.get("weights"),
        "solver": record.get("solver"),
        "network calls": _number(record.get("network_calls")),
        "guidance": guidance and f"{guidance:g}{_interval(record)}",
        "size": size and "x".join(map(str, size)),
        "labels": _flat(record.get("labels")),
        "seed": _number(record.get("seed")),
        "samples": _flat(record.get("samples")),
        "side of patches": _number(record.get("patch")),
        "reference": _flat(record.get("reference")),
        "feature networks": "; ".join(network),
        "commit": record.get("commit"),
        "time": format_time(record.get("time")),
    }


def format_time(time: Any) -> str | None:
    """Formats the time of a record; None without one."""
    try:
        parsed = datetime.datetime.fromisoformat(time)
    except (TypeError, ValueError):
        return _flat(time)
    return f"{parsed.astimezone(datetime.UTC):%Y-%m-%d %H:%M} UTC"


def evaluations(records: Sequence[Record]) -> Section | None:
    """Returns the main metrics over the training; None without repeated evaluations.

    Only evaluations with equal settings are on one line. A star marks the best.
    """
    records = [r for r in records if r.get("step") is not None and "metrics" in r]
    shown: dict[tuple, list[str]] = {}
    for name in plots.select_metrics([r["metrics"] for r in records]):
        shown.setdefault(metric_names.split_name(name)[:2], []).append(name)
    every = []
    for (kind, network), group in shown.items():
        series = [s for name in group for s in _over_steps(records, name, len(group))]
        if max(len(one.x) for one in series) > 1:
            title = " ".join(p for p in (kind, network, plots.arrow(kind)) if p)
            every.append(
                page.plot(curves.plot_lines(series, title=title, x_label="step"))
            )
    if not every:
        return None
    text = page.paragraph(
        "Evaluations with equal settings are on one line, with 95% intervals if known; "
        "a star marks the best value. Metrics of different numbers of samples cannot "
        "be compared."
    )
    return Section("evaluations", "Evaluations over time", text + page.plots(every))


def sweep(record: Record) -> Section | None:
    """Returns the plots and the table of `sweep.json`."""
    points = record.get("points") or []
    shown = plots.plot_sweep(points) if points else None
    if shown is None:
        return None
    facts = {
        "samples at each point": _number(record.get("count")),
        "points": str(len(points)),
        **describe_settings(record),
        # The points have their own.
        **dict.fromkeys(["guidance", "network calls"]),
    }
    text = page.facts(facts) + page.plot(shown)
    if trade := plots.plot_trade_off(points):
        text += page.plot(trade, "The ends of each line are marked with their guidance")
    found = plots.build_table(points, errors=False)
    numbers = range(len(found.header))
    text += page.table(found.header, found.rows, numbers=numbers, best=found.best)
    return Section("sweep", "Sweep of guidance and steps", text)


def _over_steps(records: Sequence[Record], name: str, names_here: int) -> list[Series]:
    """Returns a line for each group of evaluations with equal settings."""
    count = metric_names.split_name(name)[2]
    # A held-out loss does not depend on the sampling.
    settings = list(_SETTINGS) if metric_names.needs_samples(name) else ["weights"]
    kinds: dict[str, dict[float, Record]] = {}
    for record in records:
        if record["metrics"].get(name) is not None:
            setting = {key: record.get(key) for key in settings}
            # The last evaluation of each step counts.
            kinds.setdefault(json.dumps(setting), {})[record["step"]] = record
    varied = [
        key
        for key in settings
        if len({json.dumps(json.loads(kind)[key]) for kind in kinds}) > 1
    ]
    series = []
    for kind, by_step in kinds.items():
        setting = json.loads(kind)
        label = [_SETTINGS[key].format(_flat(setting[key])) for key in varied]
        if names_here > 1 and count:
            label.insert(0, f"{plots.format_number(count)} samples")
        steps = sorted(by_step)
        values = [by_step[step]["metrics"][name] for step in steps]
        bounds = [plots.bounds(by_step[step], name) for step in steps]
        series.append(
            Series(
                *(steps, values, ", ".join(label)),
                low=[low for low, _ in bounds],
                high=[high for _, high in bounds],
                best=metric_names.best_index(name, values) if len(values) > 1 else None,
                marks=True,
            )
        )
    return series


def _held_out_by_logsnr(found: Record) -> str:
    """Returns a table of the held-out loss in each bin; "" if there is none."""
    bins = sorted(
        (name for name in found if "[" in name), key=training_sections.bin_start
    )
    if len(bins) < 2:
        return ""
    rows = [
        [training_sections.bin_name(name), plots.format_number(found[name])]
        for name in bins
    ]
    table = page.table(["logsnr", "held-out loss"], rows, numbers=(0, 1))
    return page.details("Held-out loss by logsnr", table)


def _interval(record: Record) -> str:
    low, high = record.get("guidance_interval") or (None, None)
    if low is None and high is None:
        return ""
    return f", logsnr {'-∞' if low is None else low} to {'∞' if high is None else high}"


def _rest(record: Record) -> dict[str, Any]:
    return {k: v for k, v in record.items() if k not in _SHOWN_ELSEWHERE}


def _number(value: Any) -> str | None:
    return None if value is None else plots.format_number(value)


def _flat(value: Any) -> str | None:
    """Formats a setting: the values of a mapping, or the items of a list."""
    if isinstance(value, Mapping):
        known = {
            k: v
            for k, v in value.items()
            if v not in (None, "", {}) and k != "identity"
        }
        return ", ".join(
            str(_flat(v)) if k == "what" else f"{k} {_flat(v)}"
            for k, v in known.items()
        )
    if isinstance(value, list):
        return " to ".join("open" if v is None else str(v) for v in value)
    return None if value is None else str(value)
