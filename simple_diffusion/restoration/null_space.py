"""The projection of an estimate onto the images consistent with a measurement.

A measurement of an image is y = A x. Any x is the sum of A⁺A x, which the measurement
determines, and (I - A⁺A) x, on which it does not depend. The projection takes the first
part from y and the second from the estimate (arXiv 2212.00490, section 3.1):

    x' = A⁺y + (I - A⁺A) x = x - A⁺(A x - y).                                    (1)

Then A x' = A A⁺ y, which is y if y is in the range of A.
"""

from typing import Any

from jaxtyping import Array, Float

from simple_diffusion.core.types import DenoiseFn, Solver
from simple_diffusion.restoration.operators import LinearOperator

Image = Float[Array, "b h w c"]


def project(operator: LinearOperator, x: Image, y: Array) -> Image:
    """Returns the image nearest to x that is consistent with y: equation (1)."""
    return x - operator.pinv(operator.forward(x) - y)


def project_denoiser(
    denoise: DenoiseFn, operator: LinearOperator, y: Array
) -> DenoiseFn:
    """Returns a denoise function with projected estimates.

    Any solver then restores images. Other changes of x_hat (guidance, clipping,
    windows) come before the projection: `project_denoiser(clip(guide(...)), operator,
    y)`.
    """

    def denoise_and_project(z_t: Image, logsnr: Float[Array, "b"]) -> Image:
        return project(operator, denoise(z_t, logsnr), y)

    return denoise_and_project


def project_solver(solver: Solver, operator: LinearOperator, y: Array) -> Solver:
    """Returns a solver that projects the estimates of `denoise`.

    Equivalent to `project_denoiser`, for a loop that also needs the estimates before
    the projection (`travel.py`).
    """

    def step(denoise: DenoiseFn, *rest: Any) -> tuple[Image, Any]:
        return solver.step(project_denoiser(denoise, operator, y), *rest)

    return Solver(solver.init, step)
