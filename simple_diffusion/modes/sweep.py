"""Mode `sweep`: a model evaluated at many settings of guidance and steps."""

from typing import Any

import jax
from etils import epath

from simple_diffusion.build import evaluation, training
from simple_diffusion.build.options import Config
from simple_diffusion.evaluation import bank, plots
from simple_diffusion.modes import evaluate, record
from simple_diffusion.modes import workdir as files

FOLDER = "sweep"
RECORD = "sweep.json"


def run(config: Config, workdir: str) -> list[dict[str, Any]]:
    """Evaluates a model at every combination of `config.sweep`; returns the points.

    Every point uses the same noise and classes. They are written to `sweep/sweep.json`
    one by one, a table and plots beside it; called again, points that are there are not
    made again.
    """
    with training.watch(config):
        return _run(config, workdir)


def _run(config: Config, workdir: str) -> list[dict[str, Any]]:
    count, settings = evaluation.sweep(config)
    metrics = tuple(m for m in evaluation.plan(config).metrics if m != "memorisation")
    folder, model = evaluate.load(config, workdir)
    compared = evaluate.comparison(config, folder, model.mesh, model.opened)
    # Found out before an hour of drawing: whatever cannot be drawn.
    samplers = [evaluate.sampler_of(_at(config, point), model) for point in settings]
    place = folder / FOLDER
    points: list[dict[str, Any]] = []
    before = (files.read(place / RECORD) or {}).get("points", [])
    for k, (point, sampler) in enumerate(zip(settings, samplers, strict=True), 1):
        here = _at(config, point)
        drawn = evaluate.samples(here, model, compared, sampler, count)
        # As it is drawn, as it is compared, and what is asked of it.
        reference = compared.reference(drawn.images.size, drawn.label)
        identity = [drawn.images.identity, reference.about["hash"], list(metrics)]
        mark = bank.digest({"identity": identity, "labels": compared.plan.labels})
        said = ", ".join(f"{key}={value}" for key, value in point.items())
        known = next((p for p in before if p.get("mark") == mark), None)
        if known is None:
            files.say(f"point {k}/{len(settings)}: {said}")
            found = evaluate.measure(compared, drawn, metrics, store=False)
            known = {
                **point,
                "network_calls": sampler.network_calls,
                "mark": mark,
                **record.measured(record.tell(found)),
            }
        else:
            files.say(f"point {k}/{len(settings)}: {said}: known")
        points.append(known)
        if jax.process_index() == 0:
            about = {"count": count, **record.drawn(here, sampler, model.step)}
            about |= compared.record() | record.circumstances(config)
            _write(place, about, points)
    files.say(f"table, plots and numbers: {place}")
    return points


def _at(config: Config, point: dict[str, Any]) -> Config:
    """Returns the config with the keys of a point in `sample`."""
    here = config.copy_and_resolve_references()
    for key, value in point.items():
        here.sample[key] = value
    return here


def _write(folder: epath.Path, about: dict[str, Any], points: list) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    files.write(folder / RECORD, about | {"points": points})
    (folder / "table.md").write_text(plots.sweep_table(points))
    for name, draw in (("sweep", plots.sweep), ("trade_off", plots.trade_off)):
        svg = draw(points)
        if svg is not None:
            (folder / f"{name}.svg").write_text(svg)
