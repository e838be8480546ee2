"""Measures the distance of restorations from an exactly known posterior.

    python -m benchmarks.restoration_priors

The prior is a Gaussian in pixel space, whose E[x | z] is a matrix. So there is no error
of a network, and all errors are those of the method. Mean and covariance of many
samples for one measurement are compared with those of the conditional Gaussian. The
first row of each table has samples of that Gaussian itself: it shows how exact this
number of samples can be.

If the measured pixels say nothing about the others, as with independent pixels of equal
variance, the projected E[x | z] is E[x | z, y], and a correct solver converges to the
posterior with the number of steps. DDNM does not: with a fraction eta of all noise
renewed in each step, the variance in the null space tends to (1 + sqrt(1 - eta^2))/2 of
the correct one: the balance of x_hat, which shrinks, and of noise, whose former size is
lost. If pixels are correlated, all methods are approximations.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import protocol
from simple_diffusion.core import rng
from simple_diffusion.core.types import DenoiseFn, Solver
from simple_diffusion.diffusion import process, schedules
from simple_diffusion.diffusion.process import FLOW, VP, Family
from simple_diffusion.restoration import ddnm, null_space, operators, travel
from simple_diffusion.restoration.operators import LinearOperator
from simple_diffusion.sampling import grids, solvers

SIDE = 8
STD = 0.5  # of a pixel
# Of the noise in the measurement: a pixel of it tells less than its prior, or more.
SIGMA_Y = 0.2

Matrix = np.ndarray
# (operator, y) -> a solver whose steps agree with the measurement
Make = Callable[[LinearOperator, jax.Array], Solver]


class Prior(NamedTuple):
    """N(mean, Q diag(variances) Qᵀ), over the pixels row by row; Q is `basis`."""

    mean: Any
    variances: Any
    basis: Any


class Part(NamedTuple):
    """How near samples are to a Gaussian, in a subspace.

    mean: distance of the means, in units of the Gaussian's standard deviation, which is
      the root of the trace.
    variance: trace of the covariance over that of the Gaussian.
    covariance: Frobenius norm of the difference over that of the Gaussian's covariance.
    """

    mean: float
    variance: float
    covariance: float


def independent(side: int = SIDE) -> Prior:
    """Returns pixels that know nothing of each other, about a ramp."""
    n = side**2
    return Prior(np.linspace(-0.5, 0.5, n), np.full(n, STD**2), np.eye(n))


def smooth(side: int = SIDE, length: float = 1.5) -> Prior:
    """Returns a random field with a Gaussian covariance of this length in pixels.

    A hundredth of its variance is white, as fine texture is.
    """
    y, x = np.divmod(np.arange(side**2), side)
    squared = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2
    shared = 0.99 * np.exp(-0.5 * squared / length**2)
    variances, basis = np.linalg.eigh(STD**2 * (shared + 0.01 * np.eye(side**2)))
    return Prior(np.linspace(-0.5, 0.5, side**2), variances, basis)


def covariance(prior: Prior) -> Matrix:
    """Returns the covariance of the prior."""
    return prior.basis * prior.variances @ prior.basis.T


def denoiser(prior: Prior, family: Family) -> DenoiseFn:
    """Returns the exact E[x | z] = m + a C (a² C + s² I)⁻¹ (z - a m), in its basis."""

    def denoise(z_t: jax.Array, logsnr: jax.Array) -> jax.Array:
        z = z_t.reshape(len(z_t), -1)
        alpha, sigma = process.expand(family, logsnr, z)
        variances, mean = prior.variances[None], prior.mean[None]
        gain = alpha * variances / (alpha**2 * variances + sigma**2)
        inner = jnp.matmul(z - alpha * mean, prior.basis, precision="highest")
        x = jnp.matmul(gain * inner, prior.basis.T, precision="highest")
        return (mean + x).reshape(z_t.shape)

    return denoise


def dense(operator: LinearOperator, side: int = SIDE) -> Matrix:
    """Returns A as a matrix [m, n] over flat images of one channel."""
    units = jnp.eye(side**2).reshape(-1, side, side, 1)
    return np.asarray(operator.forward(units), np.float64).reshape(side**2, -1).T


def posterior(
    prior: Prior, matrix: Matrix, y: np.ndarray, sigma_y: float
) -> tuple[np.ndarray, Matrix]:
    """Returns mean and covariance of x given y = A x + N(0, sigma_y²).

    Args:
      prior: of x.
      matrix: A, [m, n]; rows of zeros tell nothing.
      y: what was measured, [m].
      sigma_y: may be 0.
    """
    before = covariance(prior)
    seen = matrix @ before @ matrix.T + sigma_y**2 * np.eye(len(matrix))
    gain = before @ matrix.T @ np.linalg.pinv(seen, rcond=1e-12, hermitian=True)
    mean = prior.mean + gain @ (y - matrix @ prior.mean)
    return mean, before - gain @ matrix @ before


def compare(samples: np.ndarray, mean: np.ndarray, exact: Matrix, part: Matrix) -> Part:
    """Compares samples [n, d] with N(mean, exact) in the range of a projection."""
    inside = part @ exact @ part
    difference = part @ np.cov(samples, rowvar=False) @ part - inside
    trace = np.trace(inside)
    away = np.linalg.norm(part @ (samples.mean(0) - mean))
    return Part(
        mean=float(away / math.sqrt(trace)),
        variance=float(1 + np.trace(difference) / trace),
        covariance=float(np.linalg.norm(difference) / np.linalg.norm(inside)),
    )


def table() -> dict[str, tuple[Family, Make]]:
    """Returns the ways to restore from a measurement without noise."""

    def own(family: Family, eta: float, **how: bool) -> tuple[Family, Make]:
        return family, lambda a, y: ddnm.ddnm(a, y, family, eta, **how)

    def plain(solver: Solver) -> tuple[Family, Make]:
        return VP, lambda a, y: null_space.project_solver(solver, a, y)

    return {
        "ddnm, eta .85": own(VP, 0.85),
        "ddnm, eta 1": own(VP, 1.0),
        "ddnm, eta .85, flow": own(FLOW, 0.85),
        "ddnm, eta .85, fresh=ddim": own(VP, 0.85, as_ddim=True),
        "as published, eta .85": (VP, lambda a, y: ddnm.ddnm_simplified(a, y)),
        # The same as ddim with eta 1.
        "ancestral, gamma 0": plain(solvers.ancestral(gamma=0.0)),
        "ancestral, gamma 1": plain(solvers.ancestral(gamma=1.0)),
        "ddim, eta 0": plain(solvers.ddim(eta=0.0)),
    }


def noisy_table(sigma_y: float = SIGMA_Y) -> dict[str, tuple[Family, Make]]:
    """Returns the ways to restore from a measurement with noise."""
    return {
        "ddnm_plus, eta .85": (
            VP,
            lambda a, y: ddnm.ddnm_plus(a, y, sigma_y, eta=0.85),
        ),
        "ddnm_plus, eta 1": (VP, lambda a, y: ddnm.ddnm_plus(a, y, sigma_y, eta=1.0)),
        "as published, eta .85": (VP, lambda a, y: ddnm.ddnm_simplified(a, y, sigma_y)),
    }


def program(
    family: Family, make: Make, operator: LinearOperator, steps: int, noisy: bool
) -> Callable[..., jax.Array]:
    """Returns (prior, y [1, ...], keys [n]) -> samples [n, d], compiled."""
    grid = grids.uniform_t(schedules.cosine(), steps)

    def run(prior: Prior, y: jax.Array, keys: jax.Array) -> jax.Array:
        def finish(x: jax.Array) -> jax.Array:
            return x if noisy else null_space.project(operator, x, y)

        x = travel.restore(
            denoiser(prior, family),
            make(operator, y),
            finish,
            grid,
            keys,
            (SIDE, SIDE, 1),
            family,
        )
        return x.reshape(len(x), -1)

    return jax.jit(run)


def rows(
    operator: LinearOperator,
    priors: dict[str, Prior],
    sigma_y: float,
    every: dict[str, tuple[Family, Make]],
    steps: list[int],
    count: int,
) -> list[dict[str, Any]]:
    """Returns one entry for each prior, method and part of the space."""
    matrix: Matrix = dense(operator)
    measured: Matrix = np.linalg.pinv(matrix) @ matrix
    parts = {"null space": np.eye(len(measured)) - measured}
    if sigma_y:
        parts["measured"] = measured
    draws, found = np.random.default_rng(0), []
    keys = rng.derive_example_keys(jax.random.key(0), jnp.arange(count))
    known = {}
    for name, prior in priors.items():
        x = draws.multivariate_normal(prior.mean, covariance(prior))
        noise = sigma_y * draws.standard_normal(len(matrix))
        # An unknown pixel has no noise either.
        y = matrix @ x + noise * matrix.any(axis=1)
        law = posterior(prior, matrix, y, sigma_y)
        known[name] = y, law
        exact = draws.multivariate_normal(law[0], law[1], count)
        found += _entries(name, "exact draws", exact, law, parts, 0)
    shape = operator.forward(jnp.zeros((1, SIDE, SIDE, 1))).shape
    for method, (family, make) in every.items():
        for n in steps:
            # One program for all priors: they are arguments.
            run = program(family, make, operator, n, bool(sigma_y))
            for name, prior in priors.items():
                y, law = known[name]
                start = time.perf_counter()
                arguments = jax.tree.map(jnp.float32, (prior, y.reshape(shape)))
                samples = np.asarray(run(*arguments, keys), np.float64)
                found += _entries(name, method, samples, law, parts, n)
                took = time.perf_counter() - start
                print(f"{name}, {method}, {n}: {took:.1f} s", file=sys.stderr)
    return found


def _entries(
    prior: str,
    method: str,
    samples: np.ndarray,
    law: tuple[np.ndarray, Matrix],
    parts: dict[str, Matrix],
    steps: int,
) -> list[dict[str, Any]]:
    about = {"prior": prior, "method": method, "steps": steps}
    return [
        {**about, "part": name, **compare(samples, law[0], law[1], part)._asdict()}
        for name, part in parts.items()
    ]


def show(title: str, found: list[dict[str, Any]], steps: list[int]) -> None:
    """Prints the table of one prior and operator: a figure by steps."""
    figures = {"variance": "variance", "mean": "mean off", "covariance": "covariance"}
    cells = [f"{name}, {n}" for name in figures.values() for n in steps]
    print(f"\n{title}\n\n| | {' | '.join(cells)} |\n|---|" + "---:|" * len(cells))
    labels = dict.fromkeys((entry["method"], entry["part"]) for entry in found)
    several = len({part for _, part in labels}) > 1
    for method, part in labels:
        by_steps = {
            entry["steps"]: entry
            for entry in found
            if (entry["method"], entry["part"]) == (method, part)
        }
        # Exact draws take no steps: the same figures for any number.
        row = [
            f"{by_steps[n if n in by_steps else 0][figure]:.3f}"
            for figure in figures
            for n in steps
        ]
        name = f"{method}: {part}" if several else method
        print(f"| {name} | {' | '.join(row)} |")


def main() -> None:
    """Samples, compares, prints tables and JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--count", type=int, default=4096, help="samples of each")
    add("--steps", type=int, nargs="*", default=[10, 30, 100, 300])
    add("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    spec = protocol.Spec("restoration")
    protocol.restart_in(protocol.environment(spec), "benchmarks.restoration_priors")
    half = np.ones((1, SIDE, SIDE, 1), np.float32)
    half[:, :, SIDE // 2 :] = 0
    measurements = {
        "right half missing": operators.inpaint(half),
        "averages of 2x2": operators.average((SIDE, SIDE), 2),
    }
    priors = {"independent pixels": independent(), "smooth field": smooth()}
    results = []
    for sigma_y, every in ((0.0, table()), (SIGMA_Y, noisy_table())):
        for name, operator in measurements.items():
            found = rows(operator, priors, sigma_y, every, args.steps, args.count)
            noise = f", sigma_y {sigma_y}" if sigma_y else ""
            for prior in priors:
                chosen = [entry for entry in found if entry["prior"] == prior]
                show(f"{prior}, {name}{noise}:", chosen, args.steps)
            about = {"operator": name, "sigma_y": sigma_y}
            results += [{**about, **entry} for entry in found]
    result = json.dumps({"about": protocol.about(args), "rows": results})
    print(f"\n{result}")
    if args.json:
        args.json.write_text(f"{result}\n")


if __name__ == "__main__":
    main()
