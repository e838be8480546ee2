"""A solver of your own on the denoise function of a trained model.

python -m examples.own_solver runs/quickstart --classes boat,house

A solver is two pure functions, `Solver(init, step)`. This one is Euler's method on the
probability flow in the scale of rectified flow. With

    z = alpha x + sigma eps,  y = z / (alpha + sigma),  tau = sigma / (alpha + sigma)

y goes from noise (tau = 1) to the image (tau = 0) along dy/dtau = eps_hat - x_hat
(equation 8 of diffusion/process.py). A step of Euler's method in tau is a step of DDIM,
so both draw the same images up to rounding, which checks the solver.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

import simple_diffusion
from simple_diffusion.core import rng
from simple_diffusion.core.types import Solver
from simple_diffusion.diffusion.process import Family
from simple_diffusion.pipelines import image_grids
from simple_diffusion.sampling import grids, loop, solvers


def euler(family: Family) -> Solver:
    """Returns Euler's method on the flow; `family` is the scale of z."""

    def step(denoise, z_t, state, logsnr_t, logsnr_s, keys):
        # z_t [b, h, w, c]; logsnr_t < logsnr_s, scalars; keys [b], for fresh noise,
        # which this solver does not add. It has no memory: `state` is empty.
        alpha_t, sigma_t = family.alpha_sigma(logsnr_t)
        alpha_s, sigma_s = family.alpha_sigma(logsnr_s)
        x_hat = denoise(z_t, jnp.broadcast_to(logsnr_t, z_t.shape[:1]))
        u_hat = (z_t - alpha_t * x_hat) / sigma_t - x_hat  # eps_hat - x_hat
        dtau = sigma_s / (alpha_s + sigma_s) - sigma_t / (alpha_t + sigma_t)
        y_s = z_t / (alpha_t + sigma_t) + dtau * u_hat
        return (alpha_s + sigma_s) * y_s, state

    return Solver(init=lambda z_t: (), step=step)


def main() -> None:
    """Draws the same images with both solvers and writes them in two rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a run, an exported folder, or hf:OWNER/NAME")
    parser.add_argument("--classes", help="names or numbers: boat,3; default: all")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="own_solver.png")
    flags = parser.parse_args()

    model = simple_diffusion.load(flags.model)
    classes = flags.classes.split(",") if flags.classes else list(model.classes)
    denoise = model.denoiser(classes or None)
    grid = grids.uniform_t(model.schedule, flags.steps)
    # One key per image: all random numbers of an image follow from its own key.
    index = jnp.arange(len(classes) or 1)
    keys = rng.derive_example_keys(jax.random.key(flags.seed), index)

    def draw(solver: Solver) -> np.ndarray:
        def run(keys: jax.Array) -> jax.Array:
            return loop.sample(denoise, solver, grid, keys, model.shape, model.family)

        return np.asarray(jax.jit(run)(keys))

    mine, ddim = draw(euler(model.family)), draw(solvers.ddim(model.family))
    print(f"largest difference from ddim: {np.abs(mine - ddim).max():.1e} of [-1, 1]")
    both = np.concatenate([model.decode(mine), model.decode(ddim)])
    image_grids.write_sheet(epath.Path(flags.output), both, len(mine))
    print(f"above the own solver, below ddim: {flags.output}")


if __name__ == "__main__":
    main()
