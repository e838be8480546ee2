"""The parts of a report that are pictures."""

import re

from simple_diffusion.report import page, plots
from simple_diffusion.report.page import Section
from simple_diffusion.report.run_files import RunFiles

# Of more pictures over time or classes than this, some are shown.
MOST_FRAMES = 12
MOST_CLASSES = 100


def samples(files: RunFiles) -> Section | None:
    """Returns the samples at the end of the training, and those of mode `sample`."""
    shown = [
        _one(files, "samples.png", "Samples at the end of the training"),
        _one(files, "samples/grid.png", "Samples of the last --mode sample"),
    ]
    return _section("samples", "Samples", shown)


def other_sizes(files: RunFiles) -> Section | None:
    """Returns the samples of other sizes than that of the training."""
    shown = []
    for name in files.glob("samples_*.png"):
        size = name.removeprefix("samples_").removesuffix(".png")
        shown.append(_one(files, name, f"Samples at {size}"))
    return _section("other-sizes", "Samples of other sizes", shown)


def over_time(files: RunFiles) -> Section | None:
    """Returns how the samples came about."""
    every = files.glob("grids/step_*.png")
    names, said = _thinned(every), ""
    if len(names) < len(every):
        said = f"{len(names)} of {len(every)} grids. "
    shown = [
        _one(files, name, f"step {int(found.group()):,}")
        for name in names
        if (found := re.search(r"\d+", name))
    ]
    frames = [one for one in shown if one]
    if not frames:
        return None
    text = f"{said}The same noise and classes each time."
    return Section(
        *("over-time", "Samples over the training"),
        page.paragraph(text) + page.over_time(frames),
    )


def classes(files: RunFiles, class_names: list[str]) -> Section | None:
    """Returns a row of samples for each class."""
    every = files.glob("evaluation/classes/*.png")
    rows = []
    for name in every[:MOST_CLASSES]:
        stem = name.split("/")[-1].removesuffix(".png")
        number, _, written = stem.partition("_")
        label = written or stem
        # File names are made safe; the names of the classes are as they were given.
        if number.isdecimal() and int(number) < len(class_names):
            label = str(class_names[int(number)])
        if shown := _one(files, name, "", f"samples of class {label}"):
            rows.append((label, shown))
    if not rows:
        return None
    said = ""
    if len(every) > MOST_CLASSES:
        said = page.paragraph(f"The first {MOST_CLASSES} of {len(every)} classes.")
    return Section("classes", "Samples by class", said + page.named_rows(rows))


def neighbours(files: RunFiles) -> Section | None:
    """Returns what of the training data is nearest to samples."""
    text = "Each row: a sample, then the training images nearest to it"
    compared = "The same of the images that were compared instead of the model's"
    shown = [
        _one(files, "evaluation/neighbours.png", text),
        _one(files, "evaluation/comparison/neighbours.png", compared),
    ]
    return _section("neighbours", "Nearest training images", shown)


def restorations(files: RunFiles) -> Section | None:
    """Returns the sheets of restorations, with how near they came."""
    parts = []
    for name in files.glob("restored/*"):
        about = files.read(f"{name}/restorations.json") or {}
        sheet = _one(files, f"{name}/sheet.png", _columns(about))
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
    listed = ", ".join(
        f"{k} {plots.number(v)}" + _interval(intervals.get(k)) for k, v in means.items()
    )
    text = page.paragraph(f"Means: {listed}") if listed else ""
    return f"<h3>{page.escape(task)}</h3>\n{page.facts(facts)}{text}{sheet}"


def _interval(bounds: list[float] | None) -> str:
    """Returns " [low, high]"; "" where there is none."""
    return f" [{', '.join(map(plots.number, bounds))}]" if bounds else ""


def _columns(about: dict) -> str:
    degraded = about.get("restore", {}).get("degrade")
    return "Each row: input, restorations" + (", original" if degraded else "")


def _section(anchor: str, title: str, shown: list[str]) -> Section | None:
    found = [one for one in shown if one]
    return Section(anchor, title, "".join(found)) if found else None


def _one(files: RunFiles, name: str, caption: str, text: str = "") -> str:
    """Returns the HTML of a picture; "" if there is none."""
    found = files.picture(name)
    if found is None:
        return ""
    said = "; ".join(part for part in (caption, found.reduced) if part)
    return page.picture(found.png, found.size, text or caption or name, said)


def _thinned(names: list[str]) -> list[str]:
    """Returns at most so many, evenly, with the first and the last."""
    if len(names) <= MOST_FRAMES:
        return names
    last = len(names) - 1
    return [names[round(k * last / (MOST_FRAMES - 1))] for k in range(MOST_FRAMES)]
