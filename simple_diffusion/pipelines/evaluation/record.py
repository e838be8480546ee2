"""The record of an evaluation: metrics, and the settings that they depend on."""

import datetime
import functools
import hashlib
import json
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
from etils import epath

from simple_diffusion.build import sampling
from simple_diffusion.core import console, files
from simple_diffusion.core.options import Config
from simple_diffusion.evaluation.scoring import Metric
from simple_diffusion.training import report

HISTORY = "evaluations.jsonl"
COMPARISON = "comparison.json"

Record = dict[str, Any]


def describe_sampling(
    config: Config, sampler: sampling.Sampling, step: int | None
) -> Record:
    """Returns the settings of sampling that metrics depend on."""
    c = config.sample
    return {
        "step": step,
        "weights": c.weights,
        "solver": c.solver,
        "network_calls": sampler.network_calls,
        "grid": c.grid,
        "gamma": c.gamma,
        "eta": c.eta,
        "clip": c.clip,
        "guidance": sampler.guidance,
        "guidance_of": {k: w for k, w in c.guidance_of.items() if w is not None},
        "guidance_interval": [c.guidance_low, c.guidance_high],
        "guidance_workdir": c.guidance_workdir,
        "guidance_step": c.guidance_step,
        "size": list(sampler.size),
        "frame": c.frame,
        "extrapolate": c.extrapolate,
        "coarse": [c.coarse_size, c.coarse_time],
        "window": [c.window, c.window_stride, c.window_taper],
        "seed": c.seed,
    }


def describe_metrics(metrics: Iterable[Metric]) -> Record:
    """Returns metrics, intervals, errors, counts and baselines, by name."""
    metrics = list(metrics)
    errors = {m.name: m.standard_error for m in metrics if m.standard_error is not None}
    return {
        "metrics": {m.name: m.value for m in metrics},
        "intervals": {m.name: list(m.interval) for m in metrics if m.interval},
        "standard_errors": errors,
        "counts": {m.name: list(m.counts) for m in metrics},
        "baselines": {m.name: dict(m.baselines) for m in metrics if m.baselines},
    }


def describe_provenance(config: Config) -> Record:
    """Returns time, commit and config of an evaluation."""
    now = datetime.datetime.now(datetime.UTC)
    return {
        "time": now.isoformat(timespec="seconds"),
        "commit": find_commit(),
        "config": json.loads(config.to_json_best_effort()),
    }


@functools.cache
def find_commit() -> str | None:
    """Returns the commit of this code, with "+" if it was changed; None without git.

    The result is that of the first call: call it before anything that takes long.
    """
    folder = Path(__file__).parents[2]

    def git(*args: str) -> str:
        command = ["git", "-C", str(folder), *args]
        result = subprocess.run(command, capture_output=True, text=True, timeout=10)
        result.check_returncode()
        return result.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


@functools.cache
def hash_code() -> str:
    """Returns a digest of this library's code, on which its results may depend."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[2]
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def write_metrics(folder: epath.Path, record: Record) -> epath.Path:
    """Writes the record of an evaluation; returns its path.

    An evaluation of the same step with fewer samples does not replace `metrics.json`:
    it is written beside it, and a line says so.
    """
    before, count = files.read_metrics(folder), count_samples(record)
    kept = count_samples(before)
    if before.get("step") != record.get("step") or count >= kept:
        return files.write_metrics(folder, record)
    path = folder / f"metrics_{count}.json"
    if jax.process_index() == 0:
        files.write_json(path, record)
    console.print_line(
        f"note: {folder / files.METRICS} is of {kept} samples of the same step and "
        f"stays; these metrics, of {count}, are in {path.name}"
    )
    return path


def count_samples(record: Record) -> int:
    """Returns the number of samples that the metrics of a record were measured on."""
    counts = record.get("counts")
    pairs = counts.values() if isinstance(counts, dict) else ()
    return max((pair[0] for pair in pairs if pair and pair[0]), default=0)


def append(folder: epath.Path, record: Record) -> None:
    """Appends a record to the history of a run."""
    if jax.process_index():
        return
    path = folder / HISTORY
    lines = [json.dumps(r) for r in report.read_metrics(path)]
    _rewrite(path, [*lines, json.dumps(record)])


def delete_after(folder: epath.Path, step: int) -> None:
    """Deletes records after a step, which the resumed training repeats."""
    path = folder / HISTORY
    if jax.process_index() or not path.exists():
        return
    records = report.read_metrics(path)
    kept = [r for r in records if r.get("step") is None or r["step"] <= step]
    if len(kept) < len(records):
        _rewrite(path, [json.dumps(r) for r in kept])


def _rewrite(path: epath.Path, lines: list[str]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("".join(line + "\n" for line in lines))
    partial.replace(path)


def print_metrics(metrics: Iterable[Metric]) -> Iterator[Metric]:
    """Yields the metrics, printing each one."""
    for metric in metrics:
        line = f"  {metric.name} = {metric.value:.4f}"
        if metric.interval:
            line += f"  [{metric.interval.low:.4f}, {metric.interval.high:.4f}]"
        if metric.standard_error is not None:
            line += f"  ± {metric.standard_error:.4f}"
        for title, value in metric.baselines.items():
            line += f"; {title} {value:.4f}"
        console.print_line(line)
        yield metric
