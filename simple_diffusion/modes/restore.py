"""Mode `restore`: zero-shot restoration of degraded images by a trained model."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from etils import epath

from simple_diffusion.build import network, training
from simple_diffusion.build.restoration import restoration
from simple_diffusion.core import console, files
from simple_diffusion.core.options import Config
from simple_diffusion.pipelines import open_run, runs
from simple_diffusion.pipelines.restoration import inputs, outputs, record
from simple_diffusion.pipelines.restoration.outputs import Restored
from simple_diffusion.pipelines.restoration.restorer import Restorer


class Result(NamedTuple):
    """The restorations.

    folder: folder of the files.
    files: name of an input -> paths of its files in the folder; restorations first.
    metrics: means over all restorations.
    failed: name -> error message, for the inputs that could not be restored.
    """

    folder: epath.Path
    files: dict[str, list[str]]
    metrics: dict[str, float]
    failed: dict[str, str]


def run(config: Config, workdir: str) -> Result:
    """Restores `restore.input` with the parameters of a workdir.

    Writes into `restore.output`, by default the folder `restored/TASK` of the workdir:
    `images/NAME.png` (`NAME_0.png`, ... with several restorations per input), the
    degraded inputs and masks in `inputs/` and `masks/`, `sheet.png` with the first
    inputs, their restorations and originals, and `restorations.json` with settings and
    metrics. Files of an earlier run there are replaced.

    An input of a folder that cannot be restored does not stop the others; it is
    reported at the end. If the run is stopped, finished restorations are kept.

    Raises:
      ValueError: settings are invalid, or no input can be restored.
    """
    with training.build_watchdog(config):
        return _run(config, workdir)


def _run(config: Config, workdir: str) -> Result:
    folder = files.resolve_folder(workdir)
    classes = runs.load_classes(folder)
    runs.print_differences(config, folder)
    # Check the settings before loading the weights, so that errors come at once.
    net = network.build_network(config, len(classes))
    plan = restoration.read_plan(config, net, classes)
    output = record.choose_output(plan, folder)
    items = inputs.find(config, plan)
    lpips = record.load_lpips(plan)
    trained = open_run.open_run(config, workdir).trained
    restorer = Restorer(trained, config, plan, notify=console.print_line)
    console.print_line(
        f"{plan.task} by {config.restore.solver}, step {trained.step}: {len(items)} "
        f"input(s), {plan.samples} restoration(s) each"
    )
    results = record.RestorationRecord(
        config, plan, restorer, lpips, trained.step, output
    )
    failed: dict[str, str] = {}
    total = len(items) * plan.samples
    with (
        _write_at_the_end(results, failed),
        console.show_progress("restoring", total, "images") as show,
    ):
        for one in _restorations(restorer, items, failed):
            results.add(one, failed)
            console.print_line(
                f"  {len(results.inputs)}/{len(items)}  {one.name}  "
                f"{results.line(one.name)}"
            )
            show(restorer.count + len(failed) * plan.samples)
    if not results.inputs:
        raise ValueError(
            f"none of {len(items)} inputs could be restored; the first: "
            f"{next(iter(failed.values()))}"
        )
    intervals = outputs.estimate_intervals(list(results.inputs.values()))
    for name, value in results.metrics.items():
        bounds = intervals.get(name)
        interval = f"  [{bounds[0]:.4g}, {bounds[1]:.4g}]" if bounds else ""
        console.print_line(f"  {name} = {value:.4g}{interval}")
    if failed:
        console.print_line(f"{len(failed)} of {len(items)} inputs were not restored:")
    for name, message in failed.items():
        console.print_line(f"  {name}: {message}")
    console.print_line(
        f"restorations: {output / 'images'}, overview: {output / record.SHEET}"
    )
    return Result(output, results.files, results.metrics, failed)


@contextlib.contextmanager
def _write_at_the_end(
    results: record.RestorationRecord, failed: dict[str, str]
) -> Iterator[None]:
    """Writes the record of finished restorations, however the run ends."""
    try:
        yield
    finally:
        if results.inputs:
            results.write(failed, complete=True)


def _restorations(
    restorer: Restorer, items: list[inputs.Input], failed: dict[str, str]
) -> Iterator[Restored]:
    """Yields each restored input; adds those that fail to `failed`."""
    for number, item in enumerate(items):
        try:
            restorer.add(item, number)
        except (ValueError, OSError) as error:
            if len(items) == 1:
                raise
            failed[item.name] = str(error)
        yield from restorer.ready()
    yield from restorer.rest()
