"""What a person sees of a training run: a terminal line, TensorBoard, metrics.jsonl."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from simple_diffusion.training import step as step_lib

# Reported as the mean over the steps since the last line; the others as they are now.
AVERAGED = ("loss", "grad_norm", "update_norm")


class Report:
    """Gathers the metrics of steps and reports them every so often.

    Only the first process reports; the others gather and say nothing. What cannot be
    written once it has begun, because the disk is full for a while, is said and tried
    again, and ends no training.

    workdir: gets `metrics.jsonl`, one line of JSON per report, and `tensorboard/`.
    total_steps: of the run, for the time that is left.
    every: steps between two reports; the last step is always reported.
    say: prints a line.
    tensorboard: whether to write event files; loads TensorFlow.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        *,
        total_steps: int,
        every: int = 100,
        say: Callable[[str], None] = print,
        tensorboard: bool = True,
    ):
        self._total_steps = total_steps
        self._every = every
        self._first = jax.process_index() == 0
        self._lines: list[str] = []  # of the whole file in a bucket, else unwritten
        self._path = epath.Path(workdir) / "metrics.jsonl"
        self._bucket = "://" in str(self._path)  # has no appending
        self._say = say if self._first else lambda line: None
        self._events = _event_writer(workdir) if tensorboard and self._first else None
        self._forget()

    def begin(self, step: int) -> None:
        """Starts the clocks of a run that has made `step` steps already.

        Lines of `metrics.jsonl` after that step are dropped: they come from steps that
        were lost and will be made again.
        """
        self._began = self._since = time.perf_counter()
        self._begin_step = step
        if self._first:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            lines = {m["step"]: m for m in read_metrics(self._path)}
            kept = [m for number, m in lines.items() if number <= step]
            self._lines = [json.dumps(m) + "\n" for m in kept]
            self._rewrite()
            self._lines = self._lines if self._bucket else []
        start = f"resuming at step {step}" if step else "starting"
        self._say(f"{start}, {self._total_steps} steps in all; compiling ...")

    def record(self, step: int, metrics: Mapping[str, Any], waited: float) -> None:
        """Takes the metrics of one step, and reports if it is time to.

        Args:
          step: its number, from 1.
          metrics: of the step, on the host; see `step.make_train_step`.
          waited: seconds for which the devices had nothing to do before it.
        """
        self._steps += 1
        self._clocked += 1
        self._waited += waited
        self._images += float(np.sum(metrics["loss_bin_count"]))
        if metrics["finite"]:
            self._finite += 1
            self._bins += np.stack([metrics["loss_bin_sum"], metrics["loss_bin_count"]])
            for name in AVERAGED:
                self._sums[name] += float(metrics[name])
        if step == self._begin_step + 1:
            # Measured speeds are those of the steps after compilation.
            now = time.perf_counter()
            self._say(f"first step after {now - self._began:.1f} s")
            self._began, self._since, self._waited, self._clocked = now, now, 0.0, 0
        if step % self._every == 0 or step == self._total_steps:
            self._emit(step, metrics)
            self._forget()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What runs inside, such as sampling, does not count as training time."""
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start

    def say(self, line: str) -> None:
        """Prints a line, on the first process only."""
        self._say(line)

    def close(self) -> None:
        """Writes what is not yet written."""
        if self._events is not None:
            with self._going_on("TensorBoard's events"):
                self._events.close()
        if self._first and self._lines:
            self._write()

    def _forget(self) -> None:
        self._since = time.perf_counter()
        self._sums = dict.fromkeys(AVERAGED, 0.0)
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
        if self._first:
            self._append({"step": step, "time": time.time()} | values)
        if self._events is not None:
            with self._going_on("TensorBoard's events"):
                self._events.write_scalars(step, values)
        self._say(self._line(step, values))

    def _append(self, record: Mapping[str, Any]) -> None:
        self._lines.append(json.dumps(record) + "\n")
        self._write()

    def _write(self) -> None:
        with self._going_on(f"{self._path}, which is tried again"):
            if self._bucket:
                return self._rewrite()
            with self._path.open("a") as file:
                # What was begun when the disk was full is a line that no one reads.
                file.write("\n" * (len(self._lines) > 1) + "".join(self._lines))
            self._lines = []

    @contextlib.contextmanager
    def _going_on(self, what: str) -> Iterator[None]:
        """Says what cannot be written, in place of raising: training is worth more."""
        try:
            yield
        except Exception as error:
            why: BaseException = error
            while why.__cause__ is not None:  # what clu met in its thread
                why = why.__cause__
            said = next(iter(str(why).splitlines()), "")
            self._say(f"could not write {what}: {said[:200]}")

    def _rewrite(self) -> None:
        partial = self._path.with_suffix(".partial")
        partial.write_text("".join(self._lines))
        partial.replace(self._path)

    def _line(self, step: int, values: Mapping[str, float]) -> str:
        # By the clock since the start, pauses included: when will it really be over?
        done = step - self._begin_step - 1
        elapsed = time.perf_counter() - self._began
        left = elapsed / done * (self._total_steps - step) if done > 0 else 0.0
        skipped = f"  skipped {values['skipped']:.0f}" if values["skipped"] else ""
        return (
            f"step {step}/{self._total_steps}  loss {values['loss']:.4f}  "
            f"{values['steps_per_second']:.2f} steps/s  "
            f"{values['images_per_second']:.1f} images/s  "
            f"input {values['input_wait']:.1%}  ETA {duration(left)}{skipped}"
        )


def read_metrics(path: epath.PathLike) -> list[dict[str, Any]]:
    """Returns the lines of a metrics.jsonl, but for one that was cut off by a crash."""
    path = epath.Path(path)
    if not path.exists():
        return []
    lines = []
    for line in path.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(line))
    return lines


def duration(seconds: float) -> str:
    """Returns 75 as "1:15" and 3675 as "1:01:15"."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def _event_writer(workdir: epath.PathLike) -> Any:
    # Here and not at the top: this loads TensorFlow, three seconds that only training
    # should pay for.
    from clu import metric_writers

    return metric_writers.AsyncWriter(
        metric_writers.SummaryWriter(str(epath.Path(workdir) / "tensorboard"))
    )
