"""One HTML file that shows all that a run has left in its workdir."""

import datetime
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from etils import epath

from simple_diffusion.core import files
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
    """What was written.

    path: of the page.
    """

    path: epath.Path


class _Part(NamedTuple):
    """A section that a report may have.

    what: it shows.
    made_by: the command that leaves what it is made of.
    make: returns it, None if there is nothing to show.
    """

    what: str
    made_by: str
    make: Callable[[], Section | None]


def write(workdir: str) -> Result:
    """Writes `report.html` into a workdir.

    The file holds everything it shows and opens from a disk, without a network. What is
    not there is left out, and said at the end; what is damaged is skipped and named.
    Nothing is computed on a device, so that it can be made while a training runs.

    Raises:
      ValueError: if there is nothing to report on.
    """
    folder = files.folder(workdir)
    path = folder / REPORT
    if files.is_first_process():
        text = _report(folder)
        with files.replacing(path) as file:
            file.write(text.encode())
        files.say(f"report ({len(text) / 1e6:.1f} MB): {path}")
    return Result(path)


def _report(folder: epath.Path) -> str:
    run = RunFiles(folder)
    sections, missing = [], []
    trained = run.read(files.CONFIG) or {}
    every = _parts(run, trained)
    for part in every:
        found = _made(run, part)
        if found is None:
            missing.append(part)
        else:
            sections.append(found)
    if not sections and not trained:
        raise ValueError(
            f"--workdir {folder} holds nothing to report on "
            f"({files.CONFIG} is missing); train first, with --mode train"
        )
    sections = [_summary(run, trained), *sections]
    if run.notes:
        sections = [_notes(run.notes), *sections]
    foot = [_left_out(missing)] if missing else []
    now = datetime.datetime.now(datetime.UTC)
    subtitle = f"simple_diffusion report, {now:%Y-%m-%d %H:%M} UTC"
    return page.page(str(folder).rstrip("/").split("/")[-1], subtitle, sections, foot)


def _parts(run: RunFiles, trained: dict[str, Any]) -> list[_Part]:
    """Returns all that a report may show, in order."""
    lines = _with_steps(run, TRAINING)
    class_names = []
    if (run.folder / files.CLASSES).exists():
        class_names = run.read(files.CLASSES, list) or []
    pictures, numbers, training = picture_sections, metric_sections, training_sections

    def of(name: str, make: Callable[[Any], Section | None]) -> Section | None:
        record = run.read(name)
        return None if record is None else make(record)

    return [
        _Part("samples", "train", lambda: pictures.samples(run)),
        _Part(
            *("metrics", "evaluate"),
            lambda: of(METRICS, lambda record: numbers.metrics(record, trained)),
        ),
        _Part(
            *("evaluations over time", "train, with evaluations during it"),
            lambda: numbers.evaluations(run.lines(EVALUATIONS)),
        ),
        _Part("training curves", "train", lambda: training.training(lines)),
        _Part("loss by noise level", "train", lambda: training.by_logsnr(lines)),
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
        _Part("sweeps", "sweep", lambda: of(SWEEP, numbers.sweep)),
        _Part("restorations", "restore", lambda: pictures.restorations(run)),
        _Part(
            *("comparison of folders", "evaluate, of two folders"),
            lambda: of(COMPARISON, numbers.comparison),
        ),
    ]


def _made(run: RunFiles, part: _Part) -> Section | None:
    """Returns a section; one whose files are not as they should be is passed over."""
    try:
        return part.make()
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
        run.note(f"{part.what}: files are not as expected, passed over ({why})")
        return None


def _with_steps(run: RunFiles, name: str) -> list[dict[str, Any]]:
    lines = run.lines(name)
    return [m for m in lines if isinstance(m.get("step"), int)]


def _summary(run: RunFiles, trained: dict[str, Any]) -> Section:
    """Returns what was trained and how far, from the small files alone."""
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
        "evaluated": metric_sections.when(record.get("time")),
    }
    text = page.facts(facts)
    if trained:
        text += page.fold("The whole config", page.config(trained))
    return Section("summary", "Summary", text)


def _parameters(run: RunFiles) -> int | None:
    """Returns how many parameters the newest checkpoint says it has."""
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
    return Section("notes", "Passed over", f'<div class="notes"><ul>{lines}</ul></div>')


def _left_out(missing: list[_Part]) -> str:
    listed = "; ".join(
        f"{page.escape(part.what)} ({page.code(f'--mode {part.made_by}')})"
        for part in missing
    )
    return f"Not in this report, with what makes it: {listed}."
