"""The projection that makes an estimate agree with a measurement.

An image x was measured as y = A x. Any x splits into A⁺A x, of which the measurement
tells all, and (I - A⁺A) x, of which it tells nothing. The first part is taken from y,
the second from the estimate (arXiv 2212.00490, section 3.1):

    x' = A⁺y + (I - A⁺A) x = x - A⁺(A x - y).                                    (1)

Then A x' = A A⁺ y, which is y if any image could have been measured so.
"""

from typing import Any

from jaxtyping import Array, Float

from simple_diffusion.core.types import DenoiseFn, Solver
from simple_diffusion.restoration.operators import LinearOperator

Image = Float[Array, "b h w c"]


def project(operator: LinearOperator, x: Image, y: Array) -> Image:
    """Returns the image nearest to x that agrees with the measurement: equation (1)."""
    return x - operator.pinv(operator.forward(x) - y)


def null_space(denoise: DenoiseFn, operator: LinearOperator, y: Array) -> DenoiseFn:
    """Returns a denoise function all of whose estimates agree with the measurement.

    Any solver then restores. What is done to x_hat besides (guiding, clipping, windows)
    comes before: `null_space(clip(guide(...)), operator, y)`.
    """

    def agreeing(z_t: Image, logsnr: Float[Array, "b"]) -> Image:
        return project(operator, denoise(z_t, logsnr), y)

    return agreeing


def projected(solver: Solver, operator: LinearOperator, y: Array) -> Solver:
    """Returns a solver that sees the estimates of `denoise` projected.

    The same as a projected denoise function, for a loop that wants the estimates as
    they were before (`travel.py`).
    """

    def step(denoise: DenoiseFn, *rest: Any) -> tuple[Image, Any]:
        return solver.step(null_space(denoise, operator, y), *rest)

    return Solver(solver.init, step)
