"""Floating-point operations of a JAX function, counted from its program."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax


def count(function: Callable[..., Any], *args: Any) -> int:
    """Returns the operations of all matrix products and convolutions of one call.

    XLA's own analysis counts the body of a loop once, whatever its number of turns;
    this walks the traced program, gradients included, and multiplies. A multiply-add
    counts as two. Elementwise work is left out, as is usual.

    Args:
      function: anything that can be traced.
      *args: arrays, or shapes and dtypes of them.

    Raises:
      ValueError: if there are products in a loop whose length is not in the program.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(program: Any) -> int:
    return sum(_count_equation(equation) for equation in program.eqns)


def _count_equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        contracted = params["dimension_numbers"][0][0]
        lhs = equation.invars[0].aval.shape
        return 2 * _size(equation.outvars[0]) * math.prod(lhs[d] for d in contracted)
    if name == "conv_general_dilated":
        # An output element sums over the window and the input channels of its group:
        # the elements of the kernel that belong to one output channel. Zeros that
        # dilation puts between the inputs are not multiplied.
        kernel = equation.invars[1].aval.shape
        channels = kernel[params["dimension_numbers"].rhs_spec[0]]
        window = math.prod(kernel) // channels
        dilation = math.prod(params["lhs_dilation"])
        return 2 * _size(equation.outvars[0]) * window // dilation
    inner = [_count(program) for program in _programs(params)]
    if name == "cond":
        return max(inner)
    if name == "while" and sum(inner):
        raise ValueError("a while loop holds products; how often it turns is unknown")
    return sum(inner) * (params["length"] if name == "scan" else 1)


def _size(variable: Any) -> int:
    return math.prod(variable.aval.shape)


def _programs(params: dict[str, Any]) -> Iterator[Any]:
    """Yields the programs that an equation calls, such as the body of a scan."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else [value]:
            program = getattr(item, "jaxpr", item)
            if hasattr(program, "eqns"):
                yield program
