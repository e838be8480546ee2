"""What a program needs of memory, and errors for want of it."""

import jax
import jax.numpy as jnp
import pytest

from simple_diffusion.core import memory


def compiled(n):
    """Compiles, without running it, a program with an intermediate of n² numbers."""

    def outer(x):
        return jnp.sort(jnp.outer(x, x), axis=None)[0]

    return jax.jit(outer).lower(jax.ShapeDtypeStruct((n,), jnp.float32)).compile()


def test_the_estimate_counts_the_largest_intermediate():
    needed = memory.estimate(compiled(1000), jax.devices()[:1])
    assert needed is not None
    assert 4e6 <= needed < 40e6
    # All devices of a CPU share its memory.
    assert memory.estimate(compiled(1000), jax.devices()[:2]) == 2 * needed


def test_a_program_that_cannot_fit_is_an_error_before_it_runs(capsys):
    memory.check(compiled(1000), jax.devices()[:1])
    assert capsys.readouterr().out == ""
    with pytest.raises(memory.OutOfMemory, match=r"needs about [0-9.]+ TB, and there"):
        memory.check(compiled(2_000_000), jax.devices()[:1])


def test_a_program_for_which_too_little_is_free_is_announced(monkeypatch, capsys):
    monkeypatch.setattr(memory, "_measure_memory", lambda _: (10**9, 10**3))
    memory.check(compiled(1000), jax.devices()[:1])
    assert "MB of memory, and 1 kB are free now" in capsys.readouterr().out


def exhausted(*_):
    raise jax.errors.JaxRuntimeError(
        "RESOURCE_EXHAUSTED: Out of memory allocating 230400000000 bytes.\nBuffers:\n"
    )


def test_an_error_of_xla_becomes_one_line_that_names_the_keys():
    says = "^out of memory: RESOURCE_EXHAUSTED: .*To need less, lower a.b or c.d$"
    with pytest.raises(memory.OutOfMemory, match=says):
        with memory.explain("never seen"), memory.explain("lower a.b or c.d"):
            exhausted()
    with pytest.raises(ValueError, match="out of memory: on the host. To need less"):
        with memory.explain("lower a.b"):
            raise MemoryError


def test_other_errors_stay_what_they_are():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        with memory.explain("lower a.b"):
            raise jax.errors.JaxRuntimeError("INTERNAL: something else")


@pytest.mark.parametrize(
    "count, text", [(999, "999 bytes"), (2.304e11, "230 GB"), (1.5e13, "15 TB")]
)
def test_bytes_are_formatted(count, text):
    assert memory.format_bytes(count) == text
