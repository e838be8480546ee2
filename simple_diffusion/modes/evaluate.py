"""Mode `evaluate`: how good a model, or a set of images, is, in numbers."""

from simple_diffusion.build import data, evaluation, training
from simple_diffusion.core import files
from simple_diffusion.core.options import Config
from simple_diffusion.modes import report
from simple_diffusion.pipelines import open_run, runs
from simple_diffusion.pipelines.evaluation import evaluate
from simple_diffusion.training import sharding


def run(config: Config, workdir: str) -> dict[str, float]:
    """Evaluates what `evaluate.samples` names and returns its metrics by name.

    Of a model they are written to `metrics.json` of the workdir and added to
    `evaluations.jsonl`, of files to `comparison.json`.
    """
    plan, folder = evaluation.plan(config), files.resolve_folder(workdir)
    with training.watch(config):
        if plan.samples == evaluation.MODEL:
            runs.load_classes(folder)  # an error if nothing was trained there
            runs.print_differences(config, folder)
            mesh = training.mesh(config)
            # First: it may say that data.source is no longer what it was.
            dataset = data.data(config, sharding.data_shard(mesh))
            trained = open_run.open_run(config, workdir).trained
            record = evaluate.evaluate_model(config, folder, trained, dataset)
        else:
            record = evaluate.evaluate_files(config, folder, training.mesh(config))
    if plan.report:
        report.run(config, workdir)
    return record["metrics"]
