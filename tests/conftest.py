"""Every test runs on eight virtual CPU devices, with shapes, NaNs and ranks checked."""

import os
from pathlib import Path

# Before jax is imported: the devices exist only if asked for at start.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        # Tests compile far more than they compute: unoptimised code halves their time.
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        # On a busy machine one of the eight devices may keep the others waiting; after
        # 40 seconds XLA would abort the process.
        "--xla_cpu_collective_call_terminate_timeout_seconds=600",
    ]
)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Programs are compiled once and shared: by the workers, by the processes that tests
# start, and by the next run. Outside the checkout, so that a new clone is fast, too.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(CACHE / "simple_diffusion" / "compiled")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")

from jaxtyping import install_import_hook  # noqa: E402

# Only our own package is checked, and only in tests: production pays nothing for it.
install_import_hook("simple_diffusion", "beartype.beartype")

import jax  # noqa: E402
import pytest  # noqa: E402
from jaxtyping import config as jaxtyping_config  # noqa: E402

from simple_diffusion.core import console  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_nans", True)


@pytest.fixture(autouse=True)
def first_time(monkeypatch):
    """What is printed only once is printed once in each test."""
    monkeypatch.setattr(console, "_printed", set())


@pytest.fixture
def no_shape_checks():
    """For large programs, whose tracing the checks make much longer.

    The same code is checked at small sizes.
    """
    jaxtyping_config.update("jaxtyping_disable", True)
    yield
    jaxtyping_config.update("jaxtyping_disable", False)
