"""Mode `restore`: degraded images, restored by a trained model as it is."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from simple_diffusion.build import network, restoration, sampling, training
from simple_diffusion.build.options import Config
from simple_diffusion.core import images
from simple_diffusion.evaluation import lpips
from simple_diffusion.modes import inputs, restored, weights
from simple_diffusion.modes import workdir as files
from simple_diffusion.modes.restored import Restored
from simple_diffusion.modes.restorer import Restorer, Trained

RECORD = "restorations.json"
SHEET = "sheet.png"


class Result(NamedTuple):
    """What was restored.

    folder: where the images are.
    images: name -> uint8 [n, h, w, c], the restorations of each input.
    metrics: means over all restorations.
    failed: name -> why, of the inputs that could not be restored.
    """

    folder: epath.Path
    images: dict[str, np.ndarray]
    metrics: dict[str, float]
    failed: dict[str, str]


def run(config: Config, workdir: str) -> Result:
    """Restores `restore.input` with the parameters of a workdir.

    Writes into `restore.output`, by default the folder `restored/TASK` of the workdir:
    `NAME.png` (`NAME_0.png`, ... where there are several of each), what they were made
    of as `NAME_input.png` and `NAME_mask.png`, `sheet.png` with the first inputs, their
    restorations and originals, and `restorations.json` with what was done and how close
    it came.

    An input of a folder that cannot be restored does not stop the others; it is
    reported at the end.

    Raises:
      ValueError: for bad settings, and if no input can be restored.
    """
    with training.watch(config):
        return _run(config, workdir)


def _run(config: Config, workdir: str) -> Result:
    folder = files.folder(workdir)
    names = files.class_names(folder)
    files.compare(config, folder, files.say)
    built = network.model(config, len(names))
    mesh = training.mesh(config)
    plan = restoration.plan(config, built, names)
    found = inputs.find(config, plan)
    output = _output(plan, folder)
    judge = plan.lpips_weights
    judge = None if judge is None else lpips.load(judge)
    chosen = sampling.plan(config, built, names)
    step, params = weights.load(
        folder, built, mesh, chosen.weights, chosen.checkpoint_step
    )
    weak, weak_params = weights.load_weak(chosen, len(names), mesh)
    trained = Trained(built, params, weak, weak_params)
    restorer = Restorer(config, plan, trained, mesh, chosen.batch_size)
    if judge is not None and plan.degrade:
        restorer.check = judge.check
    files.say(
        f"{plan.task} by {config.restore.solver}, step {step}: {len(found)} "
        f"input(s), {plan.samples} restoration(s) each"
    )
    every, records, shown, failed = {}, {}, [], {}
    for one in _restorations(restorer, found, failed):
        if jax.process_index() == 0:
            restored.write(output, plan.lost, one)
        every[one.name] = one.restored
        records[one.name] = restored.measure(one, judge)
        shown += [one] if len(shown) < restored.MOST_ROWS else []
        _say_progress(one.name, records, plan.samples, restorer.seconds, found, failed)
    if not every:
        raise ValueError(
            f"none of {len(found)} inputs could be restored; the first: "
            f"{next(iter(failed.values()))}"
        )
    metrics = restored.means(list(records.values()))
    if jax.process_index() == 0:
        images.write_png(output / SHEET, restored.sheet(plan.lost, shown))
        settings = _settings(config, step, restorer.network_calls)
        about = settings | {
            "means": _finite(metrics),
            "inputs": {name: _finite(found) for name, found in records.items()},
            "failed": failed,
        }
        (output / RECORD).write_text(json.dumps(about, indent=2) + "\n")
    for name, value in metrics.items():
        files.say(f"  {name} = {value:.4g}")
    if failed:
        files.say(f"{len(failed)} of {len(found)} inputs were not restored:")
    for name, why in failed.items():
        files.say(f"  {name}: {why}")
    files.say(f"restored: {output}, to look at: {output / SHEET}")
    return Result(output, every, metrics, failed)


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


def _say_progress(
    name: str,
    records: dict[str, dict[str, list[float]]],
    samples: int,
    seconds: float,
    found: list[inputs.Input],
    failed: dict[str, str],
) -> None:
    done = len(records)
    left = len(found) - done - len(failed)
    values = "  ".join(f"{k} {np.mean(v):.4g}" for k, v in records[name].items())
    files.say(
        f"  {done}/{len(found)}  {done * samples / seconds:.2f} images/s  "
        f"{left * seconds / done:.0f} s left  {name}  {values}"
    )


def _finite(value: Any) -> Any:
    """Returns numbers as JSON knows them: the PSNR of equal images is None there."""
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return value if np.isfinite(value) else None


def _output(plan: restoration.Plan, folder: epath.Path) -> epath.Path:
    """Returns where results go: never among the inputs."""
    output = folder / "restored" / plan.task
    if plan.output is not None:
        output = files.folder(plan.output, "restore.output")
    source = Path(plan.input)
    source = source if source.is_dir() else source.parent
    if "://" not in str(output) and Path(output).resolve() == source.resolve():
        raise ValueError(
            f"restore.output={output} is the folder of restore.input: results would "
            "overwrite it"
        )
    return output


def _settings(config: Config, step: int | None, network_calls: int) -> dict[str, Any]:
    """Returns what was done, for the record."""
    sample = ("weights", "seed", "grid", "window", "window_stride", "guidance")
    return {
        "step": step,
        "network_calls": network_calls,
        "restore": json.loads(config.restore.to_json_best_effort()),
        "sample": {key: config.sample[key] for key in sample},
    }
