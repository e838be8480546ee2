"""Writes the results of restorations: files, a sheet, and a record."""

import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

from simple_diffusion.build.restoration import restoration
from simple_diffusion.core import console, files, images
from simple_diffusion.core.options import Config
from simple_diffusion.evaluation.networks import lpips as lpips_network
from simple_diffusion.evaluation.networks.lpips import Lpips
from simple_diffusion.pipelines.restoration import outputs
from simple_diffusion.pipelines.restoration.outputs import Restored
from simple_diffusion.pipelines.restoration.restorer import Restorer

RECORD = "restorations.json"
SHEET = "sheet.png"
# Seconds between updates of the record in a long run.
RECORD_EVERY = 30.0


class RestorationRecord:
    """The restorations so far, in memory and on disk.

    inputs: name -> metric -> value of each restoration.
    files: name -> paths of its files.
    """

    def __init__(
        self,
        config: Config,
        plan: restoration.Plan,
        restorer: Restorer,
        lpips: Lpips | None,
        step: int | None,
        output: epath.Path,
    ):
        self.inputs: dict[str, dict[str, list[float]]] = {}
        self.files: dict[str, list[str]] = {}
        self._labels: dict[str, int] = {}
        self._shown: list[Restored] = []
        self._config, self._plan, self._restorer = config, plan, restorer
        self._lpips, self._step, self._output = lpips, step, output
        self._written = time.perf_counter()

    @property
    def metrics(self) -> dict[str, float]:
        """Means over all restorations."""
        return outputs.average(list(self.inputs.values()))

    def line(self, name: str) -> str:
        """Returns the metrics of one input as text."""
        metrics = self.inputs[name].items()
        return "  ".join(f"{key} {np.mean(values):.4g}" for key, values in metrics)

    def add(self, one: Restored, failed: dict[str, str]) -> None:
        """Writes the files of an input, and from time to time the record."""
        if jax.process_index() == 0:
            if not self.inputs:
                self._remove_old()
            self.files[one.name] = outputs.write(
                self._output, self._plan.degradation, one
            )
        self.inputs[one.name] = outputs.measure(one, self._lpips)
        self._labels[one.name] = one.label
        if len(self._shown) < outputs.MOST_ROWS:
            self._shown.append(one)
        if time.perf_counter() - self._written > RECORD_EVERY:
            self.write(failed, complete=False)

    def write(self, failed: dict[str, str], complete: bool) -> None:
        """Writes the record, and the sheet if the run is complete."""
        self._written = time.perf_counter()
        if jax.process_index():
            return
        if complete:
            sheet = outputs.render_sheet(self._plan.degradation, self._shown)
            images.write_png(self._output / SHEET, sheet)
        c, restorer = self._config, self._restorer
        lpips = self._lpips
        about = {
            "step": self._step,
            "network_calls": restorer.network_calls,
            "seconds_per_image": restorer.seconds / max(restorer.count, 1),
            "restore": json.loads(c.restore.to_json_best_effort()),
            "sample": json.loads(c.sample.to_json_best_effort()),
            "lpips": lpips and {"trunk": lpips.trunk, "sha256": lpips.digest},
            "means": _finite(self.metrics),
            "intervals": outputs.estimate_intervals(list(self.inputs.values())),
            "failed": failed,
            "inputs": {
                name: _finite(metrics) | {"label": self._labels[name]}
                for name, metrics in self.inputs.items()
            },
            "files": self.files,
        }
        files.write_json(self._output / RECORD, about)

    def _remove_old(self) -> None:
        old = files.read_json(self._output / RECORD)
        if isinstance(old, dict):
            for paths in old.get("files", {}).values():
                outputs.remove(self._output, paths)


def _finite(value: Any) -> Any:
    """Replaces infinite numbers by None for JSON, such as the PSNR of equal images."""
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return value if np.isfinite(value) else None


def load_lpips(plan: restoration.Plan) -> Lpips | None:
    """Returns the network of `restore.lpips_weights`; None if it is not used.

    Raises:
      ValueError: the file cannot be used.
    """
    if plan.lpips_weights is None:
        return None
    if not plan.degrade:
        console.print_line(
            "note: restore.lpips_weights has no effect without restore.degrade=True"
        )
        return None
    try:
        return lpips_network.load(plan.lpips_weights)
    except (ValueError, OSError) as error:
        raise ValueError(f"restore.lpips_weights: {error}") from error


def choose_output(plan: restoration.Plan, folder: epath.Path) -> epath.Path:
    """Returns the output folder, which must not contain the inputs.

    Raises:
      ValueError: it contains inputs.
    """
    output = folder / "restored" / plan.task
    if plan.output is not None:
        output = files.resolve_folder(plan.output, "restore.output")
    if "://" in str(output):
        return output
    target = Path(output).resolve()
    kind_folders = {target / kind for kind in outputs.KINDS}
    for key, text in (("input", plan.input), ("hole_mask", plan.hole_mask)):
        source = Path(text or "").resolve()
        if not text or not source.exists():
            continue  # not a file; a missing file is reported later
        # Files of an earlier run are replaced: this run must not read any of them.
        is_replaced = bool(kind_folders & {source, *source.parents})
        # Images of a folder are also searched in its subfolders.
        is_searched = source.is_dir() and source in {target, *target.parents}
        if is_replaced or (is_searched and key == "input"):
            raise ValueError(
                f"restore.output={output} overlaps with restore.{key}={text}: results "
                "would mix with it"
            )
    return output
