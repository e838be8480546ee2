"""Sections of a report with pictures."""

import re

from simple_diffusion.report import page, plots
from simple_diffusion.report.page import Section
from simple_diffusion.report.run_files import RunFiles

# Maximum number of pictures over time, and of classes.
MAX_FRAMES = 12
MAX_CLASSES = 100


def samples(files: RunFiles) -> Section | None:
    """Returns the samples at the end of the training, and those of mode `sample`."""
    shown = [
        _picture(files, "samples.png", "Samples at the end of the training"),
        _picture(files, _newest_grid(files), "Samples of the last --mode sample"),
    ]
    return _section("samples", "Samples", shown)


def _newest_grid(files: RunFiles) -> str:
    """Returns the grid of the last folder of samples, samples_2, ..."""
    numbers = {
        int(found.group(1)): name
        for name in files.glob("samples_*/grid.png")
        if (found := re.match(r"samples_(\d+)/", name))
    }
    return numbers[max(numbers)] if numbers else "samples/grid.png"


def other_sizes(files: RunFiles) -> Section | None:
    """Returns the samples of other sizes than the training size."""
    shown = []
    for name in files.glob("samples_*.png"):
        size = name.removeprefix("samples_").removesuffix(".png")
        shown.append(_picture(files, name, f"Samples at {size}"))
    return _section("other-sizes", "Samples of other sizes", shown)


def over_time(files: RunFiles) -> Section | None:
    """Returns the sample grids over the training."""
    every = files.glob("grids/step_*.png")
    names, selection = _select_evenly(every), ""
    if len(names) < len(every):
        selection = f"{len(names)} of {len(every)} grids. "
    shown = [
        _picture(files, name, f"step {int(found.group()):,}")
        for name in names
        if (found := re.search(r"\d+", name))
    ]
    frames = [one for one in shown if one]
    if not frames:
        return None
    text = f"{selection}Every grid has the same noise and classes."
    return Section(
        *("over-time", "Samples over the training"),
        page.paragraph(text) + page.over_time(frames),
    )


def classes(files: RunFiles, class_names: list[str]) -> Section | None:
    """Returns a row of samples for each class."""
    every = files.glob("evaluation/classes/*.png")
    rows = []
    for name in every[:MAX_CLASSES]:
        stem = name.split("/")[-1].removesuffix(".png")
        number, _, suffix = stem.partition("_")
        label = suffix or stem
        # File names are sanitised; class names are the original ones.
        if number.isdecimal() and int(number) < len(class_names):
            label = str(class_names[int(number)])
        if shown := _picture(files, name, "", f"samples of class {label}"):
            rows.append((label, shown))
    if not rows:
        return None
    selection = ""
    if len(every) > MAX_CLASSES:
        selection = page.paragraph(f"The first {MAX_CLASSES} of {len(every)} classes.")
    return Section("classes", "Samples by class", selection + page.named_rows(rows))


def neighbours(files: RunFiles) -> Section | None:
    """Returns the training images nearest to samples."""
    text = "Each row: a sample, then the training images nearest to it"
    compared = "The same for the compared images, in place of the model's samples"
    shown = [
        _picture(files, "evaluation/neighbours.png", text),
        _picture(files, "evaluation/comparison/neighbours.png", compared),
    ]
    return _section("neighbours", "Nearest training images", shown)


def restorations(files: RunFiles) -> Section | None:
    """Returns the sheets of restorations with their mean metrics."""
    parts = []
    for name in files.glob("restored/*"):
        about = files.read(f"{name}/restorations.json") or {}
        sheet = _picture(files, f"{name}/sheet.png", _columns(about))
        if about or sheet:
            parts.append(_restoration(about, name.split("/")[-1], sheet))
    return _section("restorations", "Restorations", parts)


def _restoration(about: dict, task: str, sheet: str) -> str:
    restore = about.get("restore", {})
    facts = {
        "task": restore.get("task", task),
        "inputs": len(about.get("inputs", {})) or None,
        "of which failed": len(about.get("failed", {})) or None,
        "restorations of each": restore.get("samples"),
        "solver": restore.get("solver"),
        "network calls": about.get("network_calls"),
        "checkpoint step": about.get("step"),
        "noise (sigma_y)": restore.get("sigma_y"),
    }
    means = about.get("means", {})
    intervals = about.get("intervals", {})
    metrics = ", ".join(
        f"{k} {plots.format_number(v)}" + _interval(intervals.get(k))
        for k, v in means.items()
    )
    text = page.paragraph(f"Means: {metrics}") if metrics else ""
    return f"<h3>{page.escape(task)}</h3>\n{page.facts(facts)}{text}{sheet}"


def _interval(bounds: list[float] | None) -> str:
    """Formats " [low, high]"; "" if there is none."""
    return f" [{', '.join(map(plots.format_number, bounds))}]" if bounds else ""


def _columns(about: dict) -> str:
    degraded = about.get("restore", {}).get("degrade")
    return "Each row: input, restorations" + (", original" if degraded else "")


def _section(anchor: str, title: str, shown: list[str]) -> Section | None:
    bodies = [one for one in shown if one]
    return Section(anchor, title, "".join(bodies)) if bodies else None


def _picture(files: RunFiles, name: str, caption: str, text: str = "") -> str:
    """Returns the HTML of a picture; "" if there is none."""
    picture = files.picture(name)
    if picture is None:
        return ""
    caption_parts = [part for part in (caption, picture.reduction) if part]
    text = text or caption or name
    return page.picture(picture.png, picture.size, text, "; ".join(caption_parts))


def _select_evenly(names: list[str]) -> list[str]:
    """Returns at most `MAX_FRAMES` names, evenly spaced, with first and last."""
    if len(names) <= MAX_FRAMES:
        return names
    last = len(names) - 1
    return [names[round(k * last / (MAX_FRAMES - 1))] for k in range(MAX_FRAMES)]
