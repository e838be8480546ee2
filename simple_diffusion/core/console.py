"""Messages for the person who started the run."""

import jax


def is_first_process() -> bool:
    """Returns whether this is the process that prints and writes files.

    Where there is but one, JAX is not asked: that would start its devices, which a
    training that runs beside this process may hold.
    """
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def print_line(line: str) -> None:
    """Prints a line, on the first process only."""
    if is_first_process():
        print(line, flush=True)
