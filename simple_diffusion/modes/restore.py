"""Mode `restore`: degraded images, restored by a trained model as it is."""

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
    """What was restored.

    folder: where the files are.
    files: name of an input -> paths of its files in the folder; restorations first.
    metrics: means over all restorations.
    failed: name -> why, of the inputs that could not be restored.
    """

    folder: epath.Path
    files: dict[str, list[str]]
    metrics: dict[str, float]
    failed: dict[str, str]


def run(config: Config, workdir: str) -> Result:
    """Restores `restore.input` with the parameters of a workdir.

    Writes into `restore.output`, by default the folder `restored/TASK` of the workdir:
    `images/NAME.png` (`NAME_0.png`, ... where there are several of each), what they
    were made of in `inputs/` and `masks/`, `sheet.png` with the first inputs, their
    restorations and originals, and `restorations.json` with what was done and how close
    it came. Files of an earlier run there are replaced.

    An input of a folder that cannot be restored does not stop the others; it is
    reported at the end. What is restored stays if the run is stopped.

    Raises:
      ValueError: for bad settings, and if no input can be restored.
    """
    with training.watch(config):
        return _run(config, workdir)


def _run(config: Config, workdir: str) -> Result:
    folder = files.resolve_folder(workdir)
    classes = runs.load_classes(folder)
    runs.print_differences(config, folder)
    # Before the weights are read: what is wrong with the settings costs no time.
    net = network.network(config, len(classes))
    plan = restoration.plan(config, net, classes)
    output = record.output_folder(plan, folder)
    found = inputs.find(config, plan)
    lpips = record.load_lpips(plan)
    trained = open_run.open_run(config, workdir).trained
    restorer = Restorer(trained, config, plan, notify=console.print_line)
    console.print_line(
        f"{plan.task} by {config.restore.solver}, step {trained.step}: {len(found)} "
        f"input(s), {plan.samples} restoration(s) each"
    )
    written = record.RestorationRecord(
        config, plan, restorer, lpips, trained.step, output
    )
    failed: dict[str, str] = {}
    try:
        for one in _restorations(restorer, found, failed):
            written.add(one, failed)
            left = (len(found) - len(failed)) * plan.samples - restorer.count
            rate = restorer.count / restorer.seconds
            console.print_line(
                f"  {len(written.inputs)}/{len(found)}  {rate:.2f} images/s  "
                f"{left / rate:.0f} s left  {one.name}  {written.line(one.name)}"
            )
    finally:
        if written.inputs:
            written.write(failed, complete=True)
    if not written.inputs:
        raise ValueError(
            f"none of {len(found)} inputs could be restored; the first: "
            f"{next(iter(failed.values()))}"
        )
    intervals = outputs.confidence(list(written.inputs.values()))
    for name, value in written.metrics.items():
        bounds = intervals.get(name)
        more = f"  [{bounds[0]:.4g}, {bounds[1]:.4g}]" if bounds else ""
        console.print_line(f"  {name} = {value:.4g}{more}")
    if failed:
        console.print_line(f"{len(failed)} of {len(found)} inputs were not restored:")
    for name, why in failed.items():
        console.print_line(f"  {name}: {why}")
    console.print_line(
        f"restored: {output / 'images'}, to look at: {output / record.SHEET}"
    )
    return Result(output, written.files, written.metrics, failed)


def _restorations(
    restorer: Restorer, found: list[inputs.Input], failed: dict[str, str]
) -> Iterator[Restored]:
    """Yields each input restored, and notes those that cannot be."""
    for number, item in enumerate(found):
        try:
            restorer.add(item, number)
        except (ValueError, OSError) as error:
            if len(found) == 1:
                raise
            failed[item.name] = str(error)
        yield from restorer.ready()
    yield from restorer.rest()
