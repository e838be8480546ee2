"""Mode `sweep`: a model evaluated at many settings of guidance and steps."""

from typing import Any

import jax
from etils import epath

from simple_diffusion.build import evaluation, training
from simple_diffusion.core import files
from simple_diffusion.core.options import Config
from simple_diffusion.evaluation import feature_bank
from simple_diffusion.modes import evaluate
from simple_diffusion.pipelines.evaluation import record
from simple_diffusion.report import plots
from simple_diffusion.training import cluster

FOLDER = "sweep"
RECORD = "sweep.json"
KINDS = ("points", "others")


def run(config: Config, workdir: str) -> list[dict[str, Any]]:
    """Evaluates a model at every combination of `config.sweep`; returns the points.

    Every point uses the same noise and classes. They are written to `sweep/sweep.json`
    one by one, a table and plots of them beside it. Called again, also for other
    points, those that are there are not made again: `others` holds what is not asked
    for now.
    """
    with training.watch(config):
        return _run(config, workdir)


def _run(config: Config, workdir: str) -> list[dict[str, Any]]:
    count, settings = evaluation.sweep(config)
    plan = evaluation.plan_of_model(config, "a sweep")
    metrics = tuple(m for m in plan.metrics if m != "memorisation")
    folder, model = evaluate.load(config, workdir)
    compared = evaluate.comparison(config, folder, model.mesh, model.opened)
    # Found out before an hour of drawing: whatever cannot be drawn.
    samplers = [evaluate.sampler_of(_at(config, point), model) for point in settings]
    place = folder / FOLDER
    points: list[dict[str, Any]] = []
    stored = files.read(place / RECORD) or {}
    known = {p.get("mark"): p for kind in KINDS for p in stored.get(kind, [])}
    for k, (point, sampler) in enumerate(zip(settings, samplers, strict=True), 1):
        here = _at(config, point)
        drawn = evaluate.samples(here, model, compared, sampler, count)
        # How it is drawn, how it is compared, and what is asked of it.
        compares = compared.settings(drawn.images.size, drawn.label)
        mark = feature_bank.digest(
            drawn.images.identity | compares | {"metrics": metrics}
        )
        said = ", ".join(f"{key}={value}" for key, value in point.items())
        if cluster.all_agree(mark in known):  # or one would draw alone
            files.say(f"point {k}/{len(settings)}: {said}: known")
        else:
            files.say(f"point {k}/{len(settings)}: {said}")
            generated = evaluate.gathered(compared, drawn, store=False)
            found = evaluate.measure(compared, drawn, generated, metrics)
            known[mark] = {
                "network_calls": sampler.network_calls,
                "mark": mark,
                **record.measured(record.tell(found)),
            }
        # Settings that make no difference, such as guidance without classes, share one.
        points.append({**known[mark], **point})
        if jax.process_index() == 0:
            about = {"count": count, **record.drawn(here, sampler, model.step)}
            about |= compared.record() | record.circumstances(config)
            shown = {p["mark"] for p in points}
            others = [p for mark, p in known.items() if mark not in shown]
            _write(place, about, points, others)
    files.say(f"table, plots and numbers: {place}")
    return points


def _at(config: Config, point: dict[str, Any]) -> Config:
    """Returns the config with the keys of a point in `sample`."""
    here = config.copy_and_resolve_references()
    for key, value in point.items():
        here.sample[key] = value
    return here


def _write(
    folder: epath.Path, about: dict[str, Any], points: list, others: list
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    record = about | dict(zip(KINDS, (points, others), strict=True))
    files.write(folder / RECORD, record)
    (folder / "table.md").write_text(plots.sweep_table(points))
    for name, draw in (("sweep", plots.sweep), ("trade_off", plots.trade_off)):
        svg = draw(points)
        if svg is not None:
            (folder / f"{name}.svg").write_text(svg)
