"""Mode `evaluate`: metrics of a model or of a set of images."""

from simple_diffusion.build import evaluation, training
from simple_diffusion.build.conditioning import field_conditions
from simple_diffusion.core import files
from simple_diffusion.core.options import Config
from simple_diffusion.modes import report
from simple_diffusion.pipelines import open_run, runs
from simple_diffusion.pipelines.evaluation import evaluate
from simple_diffusion.training import sharding


def run(config: Config, workdir: str) -> dict[str, float]:
    """Evaluates `evaluate.samples` and returns the metrics by name.

    The metrics of a model are written to `metrics.json` in the workdir and appended to
    `evaluations.jsonl`, those of files are written to `comparison.json`.
    """
    plan, folder = evaluation.read_plan(config), files.resolve_folder(workdir)
    with training.build_watchdog(config):
        if plan.samples == evaluation.MODEL:
            runs.load_classes(folder)  # raises if there is no trained model
            runs.print_differences(config, folder)
            mesh = training.build_mesh(config)
            # Open the data first: it may report that data.source has changed.
            dataset = field_conditions.open_data(
                config, sharding.data_shard(mesh), folder
            )[0]
            trained = open_run.open_run(config, workdir).trained
            record = evaluate.evaluate_model(config, folder, trained, dataset)
        else:
            record = evaluate.evaluate_files(
                config, folder, training.build_mesh(config)
            )
    if plan.report:
        report.run(config, workdir)
    return record["metrics"]
