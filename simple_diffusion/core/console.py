"""Messages for the person who started the run."""

import jax


def is_first_process() -> bool:
    """Returns whether this is the process that prints and writes files.

    In a single process it does not ask JAX: that would start the devices, which a
    training on the same machine may hold.
    """
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def print_line(line: str) -> None:
    """Prints a line, in the first process only."""
    if is_first_process():
        print(line, flush=True)
