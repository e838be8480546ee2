"""Mode `restore`: degraded images, restored by a trained model as it is."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from simple_diffusion.build import network, sampling, training
from simple_diffusion.build.restoration import restoration
from simple_diffusion.core import files, images
from simple_diffusion.core.options import Config
from simple_diffusion.evaluation.networks import lpips
from simple_diffusion.evaluation.networks.lpips import Lpips
from simple_diffusion.pipelines import runs, trained_weights
from simple_diffusion.pipelines.restoration import inputs, outputs
from simple_diffusion.pipelines.restoration.outputs import Restored
from simple_diffusion.pipelines.restoration.restorer import Restorer, Trained

RECORD = "restorations.json"
SHEET = "sheet.png"
# Seconds after which the record of a long run is brought up to date.
RECORD_EVERY = 30.0


class Result(NamedTuple):
    """What was restored.

    folder: where the files are.
    files: name of an input -> paths of its files in the folder; restorations first.
    metrics: means over all restorations.
    failed: name -> why, of the inputs that could not be restored.
    """

    folder: epath.Path
    workdir: dict[str, list[str]]
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
    folder = files.folder(workdir)
    names = runs.class_names(folder)
    runs.compare(config, folder, files.say)
    built = network.model(config, len(names))
    mesh = training.mesh(config)
    plan = restoration.plan(config, built, names)
    output = _output(plan, folder)
    found = inputs.find(config, plan)
    judge = _judge(plan)
    chosen = sampling.plan(config, built, names)
    step, params = trained_weights.load(folder, built, mesh, chosen)
    weak, weak_params = trained_weights.load_weak(chosen, len(names), mesh)
    trained = Trained(built, params, weak, weak_params)
    restorer = Restorer(config, plan, trained, mesh, chosen.batch_size)
    files.say(
        f"{plan.task} by {config.restore.solver}, step {step}: {len(found)} input(s), "
        f"{plan.samples} restoration(s) each"
    )
    record = _Record(config, plan, restorer, judge, step, output)
    failed: dict[str, str] = {}
    try:
        for one in _restorations(restorer, found, failed):
            record.add(one, failed)
            left = (len(found) - len(failed)) * plan.samples - restorer.made
            rate = restorer.made / restorer.seconds
            files.say(
                f"  {len(record.inputs)}/{len(found)}  {rate:.2f} images/s  "
                f"{left / rate:.0f} s left  {one.name}  {record.line(one.name)}"
            )
    finally:
        if record.inputs:
            record.write(failed, complete=True)
    if not record.inputs:
        raise ValueError(
            f"none of {len(found)} inputs could be restored; the first: "
            f"{next(iter(failed.values()))}"
        )
    intervals = outputs.confidence(list(record.inputs.values()))
    for name, value in record.metrics.items():
        bounds = intervals.get(name)
        more = f"  [{bounds[0]:.4g}, {bounds[1]:.4g}]" if bounds else ""
        files.say(f"  {name} = {value:.4g}{more}")
    if failed:
        files.say(f"{len(failed)} of {len(found)} inputs were not restored:")
    for name, why in failed.items():
        files.say(f"  {name}: {why}")
    files.say(f"restored: {output / 'images'}, to look at: {output / SHEET}")
    return Result(output, record.files, record.metrics, failed)


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


class _Record:
    """What was restored so far, on disk too.

    inputs: name -> metric -> value of each restoration.
    files: name -> paths of its files.
    """

    def __init__(
        self,
        config: Config,
        plan: restoration.Plan,
        restorer: Restorer,
        judge: Lpips | None,
        step: int | None,
        output: epath.Path,
    ):
        self.inputs: dict[str, dict[str, list[float]]] = {}
        self.files: dict[str, list[str]] = {}
        self._labels: dict[str, int] = {}
        self._shown: list[Restored] = []
        self._config, self._plan, self._restorer = config, plan, restorer
        self._judge, self._step, self._output = judge, step, output
        self._written = time.perf_counter()

    @property
    def metrics(self) -> dict[str, float]:
        """Means over all restorations."""
        return outputs.means(list(self.inputs.values()))

    def line(self, name: str) -> str:
        """Returns the metrics of one input for a person."""
        found = self.inputs[name].items()
        return "  ".join(f"{key} {np.mean(values):.4g}" for key, values in found)

    def add(self, one: Restored, failed: dict[str, str]) -> None:
        """Writes the files of an input, and the record if that was long ago."""
        if jax.process_index() == 0:
            if not self.inputs:
                self._remove_old()
            self.files[one.name] = outputs.write(self._output, self._plan.lost, one)
        self.inputs[one.name] = outputs.measure(one, self._judge)
        self._labels[one.name] = one.label
        if len(self._shown) < outputs.MOST_ROWS:
            self._shown.append(one)
        if time.perf_counter() - self._written > RECORD_EVERY:
            self.write(failed, complete=False)

    def write(self, failed: dict[str, str], complete: bool) -> None:
        """Writes the record, and the sheet if no more will come."""
        self._written = time.perf_counter()
        if jax.process_index():
            return
        if complete:
            sheet = outputs.sheet(self._plan.lost, self._shown)
            images.write_png(self._output / SHEET, sheet)
        c, restorer = self._config, self._restorer
        judge = self._judge
        about = {
            "step": self._step,
            "network_calls": restorer.network_calls,
            "seconds_per_image": restorer.seconds / max(restorer.made, 1),
            "restore": json.loads(c.restore.to_json_best_effort()),
            "sample": json.loads(c.sample.to_json_best_effort()),
            "lpips": judge and {"trunk": judge.trunk, "sha256": judge.digest},
            "means": _finite(self.metrics),
            "intervals": outputs.confidence(list(self.inputs.values())),
            "failed": failed,
            "inputs": {
                name: _finite(found) | {"label": self._labels[name]}
                for name, found in self.inputs.items()
            },
            "files": self.files,
        }
        files.write(self._output / RECORD, about)

    def _remove_old(self) -> None:
        old = files.read(self._output / RECORD)
        if isinstance(old, dict):
            for paths in old.get("files", {}).values():
                outputs.remove(self._output, paths)


def _finite(value: Any) -> Any:
    """Returns numbers as JSON knows them: the PSNR of equal images is None there."""
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return value if np.isfinite(value) else None


def _judge(plan: restoration.Plan) -> Lpips | None:
    """Returns the network that judges, if there is one."""
    if plan.lpips_weights is None:
        return None
    if not plan.degrade:
        files.say(
            "note: restore.lpips_weights is not used without restore.degrade=True"
        )
        return None
    try:
        return lpips.load(plan.lpips_weights)
    except (ValueError, OSError) as error:
        raise ValueError(f"restore.lpips_weights: {error}") from error


def _output(plan: restoration.Plan, folder: epath.Path) -> epath.Path:
    """Returns where results go: never among the inputs.

    Raises:
      ValueError: they would.
    """
    output = folder / "restored" / plan.task
    if plan.output is not None:
        output = files.folder(plan.output, "restore.output")
    if "://" in str(output):
        return output
    place = Path(output).resolve()
    ours = {place / kind for kind in outputs.KINDS}
    for key, text in (("input", plan.input), ("hole_mask", plan.hole_mask)):
        source = Path(text or "").resolve()
        if not text or not source.exists():
            continue  # no file, or one that is reported as missing later
        # Files of an earlier run are replaced: none may be what this one reads.
        replaced = ours & {source, *source.parents}
        # Images of a folder are looked for in the folders below, too.
        holds = source.is_dir() and source in {place, *place.parents}
        if replaced or (holds and key == "input"):
            raise ValueError(
                f"restore.output={output} lies in the place of restore.{key}={text}: "
                "results would mix with it"
            )
    return output
