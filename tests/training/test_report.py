import json

import numpy as np
import pytest

from simple_diffusion.core import console
from simple_diffusion.training import report, step

BINS = len(step.BIN_EDGES) + 1


def metrics(loss=1.0, finite=True, images=8):
    count = np.zeros(BINS, np.float32)
    count[3] = images
    return {
        "loss": np.float32(loss),
        "grad_norm": np.float32(2.0),
        "update_norm": np.float32(0.1),
        "param_norm": np.float32(5.0),
        "learning_rate": np.float32(1e-4),
        "finite": np.bool_(finite),
        "skipped": np.int32(not finite),
        "loss_bin_sum": count * np.float32(loss),
        "loss_bin_count": count,
        "examples": count.sum(),
    }


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test turns by hand."""

    class Clock:
        now = 100.0

        def perf_counter(self):
            return self.now

        def time(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(report, "time", clock)
    return clock


def run(workdir, clock, losses, *, every=4, start=0, seconds=0.5, total=100, wait=0.0):
    said = []
    reporter = report.Report(
        workdir, total_steps=total, every=every, log=said.append, tensorboard=False
    )
    reporter.begin(start)
    clock.now += 60.0  # compilation
    for number, loss in enumerate(losses, start + 1):
        reporter.record(number, metrics(loss, np.isfinite(loss)), wait)
        clock.now += seconds
    reporter.close()
    return said, report.read_metrics(workdir / "metrics.jsonl")


def test_the_loss_is_averaged_between_reports_and_speed_leaves_compilation_out(
    tmp_path, clock
):
    said, lines = run(tmp_path, clock, [1, 2, 3, 4, 5, 5, 5, 5], wait=0.05)
    assert [line["step"] for line in lines] == [4, 8]
    assert [line["loss"] for line in lines] == [2.5, 5.0]
    # Three steps of half a second after the first one.
    np.testing.assert_allclose(lines[0]["steps_per_second"], 2.0)
    np.testing.assert_allclose(lines[0]["images_per_second"], 16.0)
    np.testing.assert_allclose(lines[0]["input_wait"], 0.1)
    assert said[0] == "starting, 100 steps in all; compiling ..."
    assert said[1] == "first step after 60.0 s"
    # The clock of the second report begins with the record of step 4.
    assert said[3] == (
        "step 8/100  loss 5.0000  2.00 steps/s  16.0 images/s  input 10.0%  ETA 0:46"
    )


def test_pauses_do_not_count_as_training_but_put_off_the_end(tmp_path, clock):
    said = []
    reporter = report.Report(
        tmp_path, total_steps=10, every=5, log=said.append, tensorboard=False
    )
    reporter.begin(0)
    for number in range(1, 6):
        reporter.record(number, metrics(), 0.0)
        if number < 5:
            clock.now += 1.0
        if number == 3:
            with reporter.exclude_time():
                clock.now += 36.0
    assert "1.00 steps/s" in said[-1]
    assert "ETA 0:50" in said[-1]


def test_the_last_step_is_always_reported(tmp_path, clock):
    _, lines = run(tmp_path, clock, [1] * 6, every=4, total=6)
    assert [line["step"] for line in lines] == [4, 6]


def test_steps_that_were_skipped_are_counted_and_not_averaged(tmp_path, clock):
    said, lines = run(tmp_path, clock, [1, 1, 1, np.nan])
    assert lines[0]["loss"] == 1.0
    assert lines[0]["skipped"] == 1
    assert said[-1].endswith("skipped 1")


def test_the_bins_are_means_of_the_examples_in_them(tmp_path, clock):
    _, lines = run(tmp_path, clock, [1, 2, 3, 4])
    bins = {k: v for k, v in lines[0].items() if k.startswith("loss_at_logsnr/")}
    assert bins == {"loss_at_logsnr/-6..-3": 2.5}


def test_a_resumed_run_drops_the_lines_of_lost_steps(tmp_path, clock):
    run(tmp_path, clock, [1] * 12)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 16, "lo')  # a crash while writing
    said, lines = run(tmp_path, clock, [2] * 8, start=6)
    assert said[0] == "resuming at step 6, 100 steps in all; compiling ..."
    assert [(line["step"], line["loss"]) for line in lines] == [(4, 1), (8, 2), (12, 2)]


def test_a_failed_write_is_logged_and_repeated_later(tmp_path, clock):
    folder, said = tmp_path / "run", []
    log = report.Report(
        folder, total_steps=4, every=1, log=said.append, tensorboard=False
    )
    log.begin(0)
    log.record(1, metrics(), 0.0)
    folder.rename(tmp_path / "away")
    log.record(2, metrics(), 0.0)
    assert any("could not write" in line and "metrics.jsonl" in line for line in said)
    (tmp_path / "away").rename(folder)
    log.record(3, metrics(), 0.0)
    lines = report.read_metrics(folder / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert sum("could not" in line for line in said) == 1
    folder.rename(tmp_path / "away")
    log.record(4, metrics(), 0.0)
    (tmp_path / "away").rename(folder)
    log.close()  # at the latest
    lines = report.read_metrics(folder / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]


def test_events_that_fail_end_no_training_and_hide_no_error(tmp_path, monkeypatch):
    class Full:
        def write_scalars(self, *_):
            raise RuntimeError("asynchronously") from OSError("No space left on device")

        close = write_scalars

    monkeypatch.setattr(report, "_event_writer", lambda workdir: Full())
    said = []
    log = report.Report(tmp_path, total_steps=1, every=1, log=said.append)
    log.begin(0)
    log.record(1, metrics(), 0.0)
    log.close()
    full = "could not write TensorBoard's events: No space left on device"
    assert said.count(full) == 2


def test_each_line_is_json_by_itself(tmp_path, clock):
    run(tmp_path, clock, [1] * 8)
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        assert json.loads(line)["learning_rate"] == pytest.approx(1e-4)


def test_other_processes_log_nothing(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(report.jax, "process_index", lambda: 1)
    said, lines = run(tmp_path, clock, [1] * 8)
    assert said == [] and lines == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0:00"), (75.0, "1:15"), (3675.2, "1:01:15")]
)
def test_durations_read_like_a_clock(seconds, text):
    assert console.format_duration(seconds) == text


# TensorFlow and TensorBoard warn about themselves while they load.
@pytest.mark.filterwarnings("default")
def test_tensorboard_gets_the_same_numbers(tmp_path):
    reporter = report.Report(tmp_path, total_steps=2, every=1, log=lambda line: None)
    reporter.begin(0)
    reporter.record(1, metrics(3.0), 0.0)
    reporter.record(2, metrics(1.5), 0.0)
    reporter.close()

    from tensorboard.backend.event_processing import event_accumulator

    events = event_accumulator.EventAccumulator(
        str(tmp_path / "tensorboard"), size_guidance={"tensors": 0}
    ).Reload()
    found = {
        name: [
            (e.step, float(np.frombuffer(e.tensor_proto.tensor_content, np.float32)[0]))
            if e.tensor_proto.tensor_content
            else (e.step, e.tensor_proto.float_val[0])
            for e in events.Tensors(name)
        ]
        for name in events.Tags()["tensors"]
    }
    assert found["loss"] == [(1, 3.0), (2, 1.5)]
    assert found["loss_at_logsnr/-6..-3"] == [(1, 3.0), (2, 1.5)]


def test_images_are_shown_in_tensorboard(tmp_path, monkeypatch):
    shown = []

    class Events:
        def write_images(self, step, named):
            shown.append((step, {name: image.shape for name, image in named.items()}))

        def close(self):
            pass

    monkeypatch.setattr(report, "_event_writer", lambda workdir: Events())
    reporter = report.Report(tmp_path, total_steps=2, log=lambda line: None)
    reporter.write_images(2, {"samples": np.zeros((6, 8, 3), np.uint8)})
    reporter.close()
    assert shown == [(2, {"samples": (1, 6, 8, 3)})]
    quiet = report.Report(tmp_path, total_steps=2, tensorboard=False)
    quiet.write_images(2, {"samples": np.zeros((6, 8, 3), np.uint8)})
    assert len(shown) == 1
