"""What an evaluation leaves: metrics, with all that they are metrics of."""

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
from simple_diffusion.core import console
from simple_diffusion.core.options import Config
from simple_diffusion.evaluation.scoring import Metric
from simple_diffusion.training import report

HISTORY = "evaluations.jsonl"
COMPARISON = "comparison.json"

Record = dict[str, Any]


def sampling_settings(
    config: Config, sampler: sampling.Sampling, step: int | None
) -> Record:
    """Returns how samples come about: what a metric of them depends on."""
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


def metric_fields(metrics: Iterable[Metric]) -> Record:
    """Returns metrics with what is known of their error, by name."""
    every = list(metrics)
    errors = {m.name: m.standard_error for m in every if m.standard_error is not None}
    return {
        "metrics": {m.name: m.value for m in every},
        "intervals": {m.name: list(m.interval) for m in every if m.interval},
        "standard_errors": errors,
        "counts": {m.name: list(m.counts) for m in every},
    }


def provenance(config: Config) -> Record:
    """Returns when, with which code and with which settings."""
    now = datetime.datetime.now(datetime.UTC)
    return {
        "time": now.isoformat(timespec="seconds"),
        "commit": commit(),
        "config": json.loads(config.to_json_best_effort()),
    }


@functools.cache
def commit() -> str | None:
    """Returns the commit of this code, with "+" if it was changed; None without git.

    As it is at the first call, which is to come before anything that takes long.
    """
    here = Path(__file__).parents[2]

    def git(*args: str) -> str:
        run = ["git", "-C", str(here), *args]
        done = subprocess.run(run, capture_output=True, text=True, timeout=10)
        done.check_returncode()
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


@functools.cache
def code() -> str:
    """Returns a digest of this library's code: what it makes may change with it."""
    total = hashlib.sha256()
    root = Path(__file__).parents[2]
    for path in sorted(root.rglob("*.py")):
        total.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return total.hexdigest()[:12]


def append(folder: epath.Path, record: Record) -> None:
    """Adds a record to the history of a run."""
    if jax.process_index():
        return
    path = folder / HISTORY
    lines = [json.dumps(r) for r in report.read_metrics(path)]
    _rewrite(path, [*lines, json.dumps(record)])


def forget_after(folder: epath.Path, step: int) -> None:
    """Drops records of steps that were lost and will be made again."""
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
    """Prints each metric as it becomes known."""
    for metric in metrics:
        line = f"  {metric.name} = {metric.value:.4f}"
        if metric.interval:
            line += f"  [{metric.interval.low:.4f}, {metric.interval.high:.4f}]"
        if metric.standard_error is not None:
            line += f"  ± {metric.standard_error:.4f}"
        console.print_line(line)
        yield metric
