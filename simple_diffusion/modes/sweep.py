"""Mode `sweep`: a model evaluated at many settings of guidance and steps."""

from typing import Any

import jax
from etils import epath

from simple_diffusion.build import evaluation, training
from simple_diffusion.build.conditioning import field_conditions
from simple_diffusion.core import console, files
from simple_diffusion.core.options import Config
from simple_diffusion.pipelines import open_run, runs
from simple_diffusion.pipelines.evaluation import sweep
from simple_diffusion.report import plots
from simple_diffusion.training import sharding

FOLDER = "sweep"
RECORD = "sweep.json"
KINDS = ("points", "others")


def run(config: Config, workdir: str) -> list[dict[str, Any]]:
    """Evaluates a model at every combination of `config.sweep`; returns the points.

    Every point uses the same noise and classes. Each point is written to
    `sweep/sweep.json` as soon as it is evaluated, with a table and plots in the same
    folder. Another sweep does not evaluate stored points again; `others` in the file
    holds the stored points that this sweep does not ask for.
    """
    with training.build_watchdog(config):
        return _run(config, workdir)


def _run(config: Config, workdir: str) -> list[dict[str, Any]]:
    folder = files.resolve_folder(workdir)
    runs.load_classes(folder)  # raises if there is no trained model
    runs.print_differences(config, folder)
    sweep_plan = evaluation.read_sweep(config)
    share = sharding.data_shard(training.build_mesh(config))
    dataset, _ = field_conditions.open_data(config, share, folder)
    trained = open_run.open_run(config, workdir).trained
    output, points = folder / FOLDER, []
    stored = files.read_json(output / RECORD) or {}
    known = {p.get("mark"): p for kind in KINDS for p in stored.get(kind, [])}
    for point, about in sweep.evaluate_points(
        config, folder, trained, dataset, sweep_plan, known
    ):
        points.append(point)
        if jax.process_index() == 0:
            marks = {p["mark"] for p in points}
            others = [p for mark, p in known.items() if mark not in marks]
            _write(output, about, points, others)
    console.print_line(f"table, plots and numbers: {output}")
    return points


def _write(
    folder: epath.Path, about: dict[str, Any], points: list, others: list
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    record = about | dict(zip(KINDS, (points, others), strict=True))
    files.write_json(folder / RECORD, record)
    (folder / "table.md").write_text(plots.format_markdown(points))
    for name, draw in (
        ("sweep", plots.plot_sweep),
        ("trade_off", plots.plot_trade_off),
    ):
        svg = draw(points)
        if svg is not None:
            (folder / f"{name}.svg").write_text(svg)
