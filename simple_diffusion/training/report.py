"""Reports of a training run: terminal lines, TensorBoard and metrics.jsonl."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from simple_diffusion.core import console
from simple_diffusion.training import step as step_lib

# Reported as the mean over the steps since the last report; others as current values.
MEAN_METRICS = ("loss", "grad_norm", "update_norm")


class Report:
    """Collects the metrics of steps and reports them at regular intervals.

    Only the first process reports; the others collect silently. A report that cannot be
    written during the run, for example because the disk is full, is logged and written
    later. It does not end the training.

    workdir: receives `metrics.jsonl`, one line of JSON per report, and `tensorboard/`.
    total_steps: of the run, for the estimate of the remaining time.
    every: steps between two reports; the last step is always reported.
    log: prints a line.
    tensorboard: whether to write event files; loads TensorFlow.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        *,
        total_steps: int,
        every: int = 100,
        log: Callable[[str], None] = console.print_everywhere,
        tensorboard: bool = True,
    ):
        self._total_steps = total_steps
        self._every = every
        self._is_first = jax.process_index() == 0
        # All lines of the file in a bucket, otherwise the lines not yet written.
        self._lines: list[str] = []
        self._path = epath.Path(workdir) / "metrics.jsonl"
        self._is_bucket = "://" in str(self._path)  # buckets cannot append
        self._log = log if self._is_first else lambda _: None
        has_events = tensorboard and self._is_first
        self._events = _event_writer(workdir) if has_events else None
        self._bar = contextlib.ExitStack()
        self._show: Callable[[int], None] = lambda step: None
        self._reset()

    def begin(self, step: int) -> None:
        """Starts the clocks of a run that has completed `step` steps.

        Lines of `metrics.jsonl` after that step are dropped: their steps were not saved
        and will run again.
        """
        self._start_time = self._since = time.perf_counter()
        self._begin_step = step
        if self._is_first:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            lines = {m["step"]: m for m in read_metrics(self._path)}
            kept = [m for number, m in lines.items() if number <= step]
            self._lines = [json.dumps(m) + "\n" for m in kept]
            self._rewrite()
            self._lines = self._lines if self._is_bucket else []
        start = f"resuming at step {step}" if step else "starting"
        self._log(f"{start}, {self._total_steps} steps in all; compiling ...")
        bar = console.show_progress(
            "training", self._total_steps, "steps", start=step, prints_lines=False
        )
        self._show = self._bar.enter_context(bar)

    def record(self, step: int, metrics: Mapping[str, Any], waited: float) -> None:
        """Adds the metrics of one step, and reports if a report is due.

        Args:
          step: its number, from 1.
          metrics: of the step, on the host; see `step.make_train_step`.
          waited: seconds that the devices were idle before the step.
        """
        self._steps += 1
        self._clocked += 1
        self._waited += waited
        self._images += float(metrics["examples"])
        if metrics["finite"]:
            self._finite += 1
            if "loss_bin_sum" in metrics:  # the objective has noise levels
                bins = metrics["loss_bin_sum"], metrics["loss_bin_count"]
                self._bins += np.stack(bins)
            means = {name: metrics[name] for name in MEAN_METRICS}
            for name, value in (means | metrics.get("means", {})).items():
                self._sums[name] = self._sums.get(name, 0.0) + float(value)
        if step == self._begin_step + 1:
            # The first step compiles, so it does not count in the measured speed.
            now = time.perf_counter()
            self._log(f"first step after {now - self._start_time:.1f} s")
            self._start_time = self._since = now
            self._waited, self._clocked = 0.0, 0
        if step % self._every == 0 or step == self._total_steps:
            self._emit(step, metrics)
            self._reset()
        self._show(step)

    @contextlib.contextmanager
    def exclude_time(self) -> Iterator[None]:
        """Excludes the time of a `with` block, such as sampling, from the speed."""
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start

    def log(self, line: str) -> None:
        """Prints a line, on the first process only."""
        self._log(line)

    def write_images(self, step: int, named: Mapping[str, np.ndarray]) -> None:
        """Shows uint8 images [h, w, c] in TensorBoard, by their names."""
        if self._events is not None:
            with self._log_failures("TensorBoard's events"):
                self._events.write_images(step, {k: v[None] for k, v in named.items()})

    def close(self) -> None:
        """Writes all pending lines and events, and removes the progress bar."""
        self._bar.close()
        if self._events is not None:
            with self._log_failures("TensorBoard's events"):
                self._events.close()
        if self._is_first and self._lines:
            self._write()

    def _reset(self) -> None:
        self._since = time.perf_counter()
        self._sums = dict.fromkeys(MEAN_METRICS, 0.0)
        self._bins = np.zeros((2, len(step_lib.BIN_EDGES) + 1))
        self._steps = self._finite = self._clocked = 0
        self._waited = self._images = 0.0

    def _emit(self, step: int, metrics: Mapping[str, Any]) -> None:
        seconds = max(time.perf_counter() - self._since, 1e-9)
        speed = self._clocked / seconds
        values = {name: v / max(1, self._finite) for name, v in self._sums.items()}
        values |= {
            name: float(metrics[name])
            for name in ("param_norm", "learning_rate", "skipped")
        }
        values |= {
            "steps_per_second": speed,
            "images_per_second": speed * self._images / self._steps,
            "input_wait": min(1.0, self._waited / seconds),
        }
        values |= {
            f"loss_at_logsnr/{name}": total / count
            for name, total, count in zip(
                step_lib.bin_names(), *self._bins, strict=True
            )
            if count
        }
        if self._is_first:
            self._append({"step": step, "time": time.time()} | values)
        if self._events is not None:
            with self._log_failures("TensorBoard's events"):
                self._events.write_scalars(step, values)
        self._log(self._line(step, values))

    def _append(self, record: Mapping[str, Any]) -> None:
        self._lines.append(json.dumps(record) + "\n")
        self._write()

    def _write(self) -> None:
        with self._log_failures(f"{self._path}, which is tried again"):
            if self._is_bucket:
                return self._rewrite()
            with self._path.open("a") as file:
                # A line that was cut off by a full disk stays; readers skip it.
                file.write("\n" * (len(self._lines) > 1) + "".join(self._lines))
            self._lines = []

    @contextlib.contextmanager
    def _log_failures(self, what: str) -> Iterator[None]:
        """Logs an error of writing instead of raising it: training continues."""
        try:
            yield
        except Exception as error:
            cause: BaseException = error
            while cause.__cause__ is not None:  # the error in clu's writer thread
                cause = cause.__cause__
            text = next(iter(str(cause).splitlines()), "")
            self._log(f"could not write {what}: {text[:200]}")

    def _rewrite(self) -> None:
        partial = self._path.with_suffix(".partial")
        partial.write_text("".join(self._lines))
        partial.replace(self._path)

    def _line(self, step: int, values: Mapping[str, float]) -> str:
        # From the wall clock since the start, excluded time included.
        done = step - self._begin_step - 1
        elapsed = time.perf_counter() - self._start_time
        remaining = elapsed / done * (self._total_steps - step) if done > 0 else 0.0
        skipped = f"  skipped {values['skipped']:.0f}" if values["skipped"] else ""
        return (
            f"step {step}/{self._total_steps}  loss {values['loss']:.4f}  "
            f"{values['steps_per_second']:.2f} steps/s  "
            f"{values['images_per_second']:.1f} images/s  "
            f"input {values['input_wait']:.1%}  "
            f"ETA {console.format_duration(remaining)}{skipped}"
        )


def read_metrics(path: epath.PathLike) -> list[dict[str, Any]]:
    """Reads the lines of a metrics.jsonl; skips lines that a crash has cut off."""
    path = epath.Path(path)
    if not path.exists():
        return []
    lines = []
    for line in path.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(line))
    return lines


def _event_writer(workdir: epath.PathLike) -> Any:
    # Imported here because it loads TensorFlow, which takes three seconds that only
    # training needs to spend.
    from clu import metric_writers

    return metric_writers.AsyncWriter(
        metric_writers.SummaryWriter(str(epath.Path(workdir) / "tensorboard"))
    )
