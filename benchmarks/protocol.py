"""Workers that measure in turns: JSON lines between a driver and its subprocesses.

Each implementation runs in a process and interpreter of its own. The processes take
turns of a few steps, so that a slowdown of the machine affects all of them. Standard
library only, because the environment of the peer has nothing else in common with
ours.
"""

import argparse
import ctypes
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Spec:
    """What to measure.

    variant: which of the worker's implementations.
    resolution: height and width of the images.
    width: channels of the first level; the levels below have twice and four times it.
    depth: transformer blocks.
    batch: images in a step.
    dtype: "float32" or "bfloat16", of the computation.
    backend: "cpu", "gpu" or "tpu".
    threads: of the computation, on CPU.
    matmul: rows and columns of the reference matrix product.
    folder: images to read.
    largest: size of the largest whole that patches are cut from; of the smallest, and
      of the patches, it is `resolution`.
    recipe: a config as `recipe.load` makes it; `width` and `depth` then say nothing.
    programs: keys of the recipe, and their values, that each program of a worker has of
      its own, by the name of the program.
    """

    variant: str
    resolution: int = 64
    width: int = 64
    depth: int = 4
    batch: int = 8
    dtype: str = "float32"
    backend: str = "cpu"
    threads: int = 2
    matmul: int = 4096
    folder: str = ""
    largest: int = 256
    recipe: dict[str, Any] | None = None
    programs: dict[str, dict[str, Any]] | None = None


Run = Callable[..., int | None]


def serve(prepare: Callable[[Spec], tuple[dict[str, Any], Run]]) -> None:
    """Answers a driver on standard input and output until it hangs up.

    Args:
      prepare: spec -> (what there is to say, run). `run(steps=n)` makes n steps, waits
        for them, and returns the peak of the accelerator's memory in bytes, None on
        CPU; what else a driver asks for reaches it by keyword.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not reach the driver

    def answer(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=answers, flush=True)

    facts, run = prepare(Spec(**json.loads(sys.stdin.readline())))
    answer({**facts, "preparing_peak_bytes": peak_bytes()})
    return_unused_memory()
    for line in sys.stdin:
        message = json.loads(line)
        forget_peak()
        start = time.perf_counter()
        device_bytes = run(**message)
        seconds = (time.perf_counter() - start) / message["steps"]
        answer({"seconds": seconds, "peak_bytes": device_bytes or peak_bytes()})


class Worker:
    """A subprocess that measures one variant.

    facts: what it said about itself when it was ready.
    rounds: seconds per step, one number per round.
    peak_bytes: most memory it had in any round, of the process or the accelerator.
    """

    def __init__(self, name: str, python: str, module: str, spec: Spec) -> None:
        self.name = name
        self.rounds: list[float] = []
        self.peak_bytes = 0
        self._log = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [python, "-m", module],
            cwd=ROOT,
            env=environment(spec),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.facts = self._ask(asdict(spec))

    def measure(self, steps: int, **what: Any) -> None:
        """Makes some steps, of what its `run` takes besides, and notes their time."""
        reply = self._ask({"steps": steps, **what})
        self.rounds.append(reply["seconds"])
        self.peak_bytes = max(self.peak_bytes, reply["peak_bytes"])

    def close(self) -> None:
        """Ends the subprocess."""
        self._process.kill()
        self._process.wait()

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        try:
            print(json.dumps(message), file=self._process.stdin, flush=True)
            return json.loads(self._process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            self._log.seek(0)
            tail = self._log.read()[-3000:]
            raise RuntimeError(f"{self.name} stopped:\n{tail}") from None


# What launch/environment.sh sets on CPU, and why, is said there.
XLA_FLAGS = (
    "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT,"
    "LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
)


def environment(spec: Spec) -> dict[str, str]:
    """Returns the environment of a worker, the same for every implementation."""
    platform = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}[spec.backend]
    chosen = {
        "JAX_PLATFORMS": platform,
        # All workers share one accelerator.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "OMP_NUM_THREADS": str(spec.threads),
    }
    if spec.backend == "cpu":
        # As launch/ does; PyTorch gains from it as well. Another value may be given
        # from outside, to measure what it does.
        chosen["GLIBC_TUNABLES"] = os.environ.get(
            "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
        )
        chosen["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", XLA_FLAGS)
    return {**os.environ, **chosen}


def bind_threads(threads: int) -> None:
    """Keeps this process and those it starts to as many cores as threads."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def return_unused_memory() -> None:
    """Gives what compiling has left behind back to the system, where glibc can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def forget_peak() -> None:
    """Makes `peak_bytes` count from now on, where the system can do that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def peak_bytes() -> int:
    """Returns the most memory that this process had resident."""
    import resource  # not on every system that can read this file

    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except OSError:
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def restart_in(wanted: dict[str, str], module: str) -> None:
    """Starts this program again where its environment is not the wanted one.

    The allocator reads its settings once, before the first line of Python.
    """
    if dict(os.environ) != wanted:
        command = [sys.executable, "-m", module, *sys.argv[1:]]
        os.execve(sys.executable, command, wanted)


def about(args: argparse.Namespace) -> dict[str, Any]:
    """Returns where and with what was measured."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return {
        "date": date.today().isoformat(),
        "commit": commit.stdout.strip(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "malloc": environment(Spec("")).get("GLIBC_TUNABLES"),
        "xla_flags": environment(Spec("")).get("XLA_FLAGS"),
        **{name: value for name, value in vars(args).items() if name != "json"},
    }


def processor() -> str:
    """Returns the name of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(v.split(":")[1].strip() for v in lines if "model name" in v)
    except (OSError, StopIteration):
        return platform.processor()
