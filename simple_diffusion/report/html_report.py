"""One HTML file that shows the results of a run in its workdir."""

import datetime
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from etils import epath

from simple_diffusion.core import console, files
from simple_diffusion.report import (
    metric_sections,
    page,
    picture_sections,
    training_sections,
)
from simple_diffusion.report.page import Section
from simple_diffusion.report.run_files import RunFiles

REPORT = "report.html"
METRICS, EVALUATIONS = "metrics.json", "evaluations.jsonl"
TRAINING, COMPARISON, SWEEP = "metrics.jsonl", "comparison.json", "sweep/sweep.json"


class Result(NamedTuple):
    """The written report.

    path: of the page.
    """

    path: epath.Path


class _Part(NamedTuple):
    """A section that a report may have.

    title: what it shows.
    source: the mode that writes the files it is made of.
    make: returns the section, None if there is nothing to show.
    """

    title: str
    source: str
    make: Callable[[], Section | None]


def write(workdir: str) -> Result:
    """Writes `report.html` into a workdir.

    The file is self-contained and opens without a network. The footer lists missing
    sections; damaged files are skipped and named. Nothing is computed on a device, so a
    report can be written while a training runs.

    Raises:
      ValueError: if there is nothing to report.
    """
    folder = files.resolve_folder(workdir)
    path = folder / REPORT
    if console.is_first_process():
        text = _report(folder)
        with files.open_atomic(path) as file:
            file.write(text.encode())
        console.print_line(f"report ({len(text) / 1e6:.1f} MB): {path}")
    return Result(path)


def _report(folder: epath.Path) -> str:
    run = RunFiles(folder)
    sections, missing = [], []
    trained = run.read(files.CONFIG) or {}
    for part in _parts(run, trained):
        section = _make_section(run, part)
        if section is None:
            missing.append(part)
        else:
            sections.append(section)
    if not sections and not trained:
        raise ValueError(
            f"--workdir {folder} holds nothing to report "
            f"({files.CONFIG} is missing); train first, with --mode train"
        )
    sections = [_summary(run, trained), *sections]
    if run.notes:
        sections = [_notes(run.notes), *sections]
    foot = [_format_missing(missing)] if missing else []
    now = datetime.datetime.now(datetime.UTC)
    subtitle = f"simple_diffusion report, {now:%Y-%m-%d %H:%M} UTC"
    return page.render(str(folder).rstrip("/").split("/")[-1], subtitle, sections, foot)


def _parts(run: RunFiles, trained: dict[str, Any]) -> list[_Part]:
    """Returns all that a report may show, in order."""
    lines = _with_steps(run, TRAINING)
    class_names = []
    if (run.folder / files.CLASSES).exists():
        class_names = run.read(files.CLASSES, list) or []
    pictures, numbers, training = picture_sections, metric_sections, training_sections

    def from_file(name: str, make: Callable[[Any], Section | None]) -> Section | None:
        record = run.read(name)
        return None if record is None else make(record)

    return [
        _Part("samples", "train", lambda: pictures.samples(run)),
        _Part(
            *("metrics", "evaluate"),
            lambda: from_file(METRICS, lambda record: numbers.metrics(record, trained)),
        ),
        _Part(
            *("evaluations over time", "train, with evaluations during it"),
            lambda: numbers.evaluations(run.lines(EVALUATIONS)),
        ),
        _Part("training curves", "train", lambda: training.training_curves(lines)),
        _Part("loss by noise level", "train", lambda: training.loss_by_logsnr(lines)),
        _Part(
            *("samples over the training", "train, with train.sample_every_steps"),
            lambda: pictures.over_time(run),
        ),
        _Part(
            *("samples of other sizes", "train, with sample.also_sizes"),
            lambda: pictures.other_sizes(run),
        ),
        _Part(
            *("samples by class", "evaluate"),
            lambda: pictures.classes(run, class_names),
        ),
        _Part(
            *("nearest training images", "evaluate"),
            lambda: pictures.neighbours(run),
        ),
        _Part("sweeps", "sweep", lambda: from_file(SWEEP, numbers.sweep)),
        _Part("restorations", "restore", lambda: pictures.restorations(run)),
        _Part(
            *("comparison of folders", "evaluate, of two folders"),
            lambda: from_file(COMPARISON, numbers.comparison),
        ),
    ]


def _make_section(run: RunFiles, part: _Part) -> Section | None:
    """Returns a section; None if its files do not have the expected content."""
    try:
        return part.make()
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
        run.note(f"{part.title}: files are not as expected, skipped ({why})")
        return None


def _with_steps(run: RunFiles, name: str) -> list[dict[str, Any]]:
    lines = run.lines(name)
    return [m for m in lines if isinstance(m.get("step"), int)]


def _summary(run: RunFiles, trained: dict[str, Any]) -> Section:
    """Returns the section on model, data and progress of the training."""
    lines = _with_steps(run, TRAINING)
    record = run.read(METRICS) or {}
    data, model, sample, train = (
        trained.get(key) or {} for key in ("data", "model", "sample", "train")
    )
    class_names = run.read(files.CLASSES, list) or []
    steps, total = lines[-1]["step"] if lines else None, train.get("total_steps")
    parameters = _parameters(run)
    schedule = (trained.get("diffusion") or {}).get("schedule") or {}
    facts = {
        "data": data.get("source"),
        "classes": f"{len(class_names):,}" if class_names else None,
        "resolution": data.get("resolution"),
        "model": model.get("name"),
        "parameters": parameters and f"{parameters:,}",
        "schedule": schedule.get("name"),
        "prediction": (trained.get("diffusion") or {}).get("prediction"),
        "loss weighting": (trained.get("loss") or {}).get("weighting"),
        "batch size": train.get("batch_size"),
        "steps done": steps and f"{steps:,}" + (f" of {total:,}" if total else ""),
        "sampled by": sample.get("solver"),
        "sampling steps": sample.get("steps"),
        "guidance": sample.get("guidance"),
        "commit": record.get("commit"),
        "trained": _dates(lines),
        "evaluated": metric_sections.format_time(record.get("time")),
    }
    text = page.facts(facts)
    if trained:
        text += page.details("The full config", page.config(trained))
    return Section("summary", "Summary", text)


def _parameters(run: RunFiles) -> int | None:
    """Returns the number of parameters in the newest checkpoint."""
    steps = [name for name in run.glob("checkpoints/*") if name[12:].isdecimal()]
    if not steps:
        return None
    newest = max(steps, key=lambda name: int(name[12:]))
    try:
        arrays = run.read(f"{newest}/note/metadata")["arrays"]["params"]
        return sum(math.prod(shape) for shape, *_ in arrays.values())
    except (KeyError, TypeError, ValueError):
        return None


def _dates(lines: list[dict[str, Any]]) -> str | None:
    times = [m["time"] for m in lines if isinstance(m.get("time"), (int, float))]
    if not times:
        return None
    start, end = (
        datetime.datetime.fromtimestamp(t, datetime.UTC) for t in (times[0], times[-1])
    )
    form = "%H:%M" if start.date() == end.date() else "%Y-%m-%d %H:%M"
    return f"{start:%Y-%m-%d %H:%M} to {end:{form}} UTC"


def _notes(notes: list[str]) -> Section:
    lines = "".join(f"<li>{page.escape(note)}</li>\n" for note in dict.fromkeys(notes))
    return Section(
        "notes", "Skipped files", f'<div class="notes"><ul>{lines}</ul></div>'
    )


def _format_missing(missing: list[_Part]) -> str:
    names = "; ".join(
        f"{page.escape(part.title)} ({page.code(f'--mode {part.source}')})"
        for part in missing
    )
    return f"Not in this report, with the mode that adds it: {names}."
