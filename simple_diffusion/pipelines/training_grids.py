"""Grids of samples that a training writes during the run and at its end."""

from collections.abc import Callable

import jax
import numpy as np
from etils import epath

from simple_diffusion.build import sampling
from simple_diffusion.core import console, files, images, memory
from simple_diffusion.core.options import Config
from simple_diffusion.core.types import Weights
from simple_diffusion.pipelines import image_grids
from simple_diffusion.pipelines.programs import Drawer, make_drawer
from simple_diffusion.pipelines.requests import pictures
from simple_diffusion.pipelines.requests.plan import Plan, read_plan
from simple_diffusion.pipelines.sampling import advise
from simple_diffusion.pipelines.trained import Trained

FOLDER = "grids"


class TrainingGrids:
    """Samples and writes the grids of a training.

    All grids use the same noise and classes, so that they show the progress.

    sampler: of the size `sample.size`.
    drawer: the compiled sampler.
    paths: of the grids at the end of the run.
    """

    def __init__(self, config: Config, folder: epath.Path, trained: Trained):
        """Prepares sampling; a wrong key raises an error now.

        Args:
          config: the whole config.
          folder: the workdir.
          trained: the model; its weights are not used.
        """
        sampling.check_weights_are_tracked(config)
        net, mesh = trained.net, trained.mesh
        plan = _read_plan(config, trained)
        self.sampler = sampling.build_sampling(
            config, net, mesh=mesh, codec=trained.codec
        )
        self.drawer = make_drawer(self.sampler, mesh, plan.batch_size)
        self._advice = advise(
            config, self.sampler.windows, "sample.size", plan.batch_size
        )
        extra = sampling.build_extra_sizes(config, net, mesh)
        self._extra: dict[str, Drawer] = {
            size: make_drawer(sampler, mesh, plan.batch_size)
            for size, sampler in extra.items()
        }
        self._folder, self._batch = folder, plan.batch_size
        self._plan = plan
        # Maps of a condition have the size of the images.
        self._extra_plans = {
            name: _read_plan(config, trained, sampler.size)
            for name, sampler in extra.items()
        }
        self.paths = [folder / files.SAMPLES, *map(self._path_of, extra)]

    def write(
        self,
        step: int,
        weights: Weights,
        is_last: bool,
        show: Callable[[int, dict[str, np.ndarray]], None] | None = None,
    ) -> None:
        """Writes the grid of a step, with one batch only until the last step.

        Args:
          step: of the training.
          weights: averaged parameters.
          is_last: whether the run ends with this step.
          show: called with the step and the grids, uint8, by their names.
        """
        path = self._folder / f"{FOLDER}/step_{step:07d}.png"
        if is_last:
            path = self._folder / files.SAMPLES
        count = None if is_last else self._batch
        shown = {"samples": self._draw(path, self.drawer, weights, self._plan, count)}
        console.print_line(f"samples of step {step}: {path}")
        for size, drawer in self._extra.items() if is_last else ():
            path = self._path_of(size)
            plan = self._extra_plans[size]
            grid = self._draw(path, drawer, weights, plan, self._batch)
            shown[f"samples_{size}"] = grid
            console.print_line(f"samples at {size}: {path}")
        if show is not None:
            show(step, shown)

    def _path_of(self, size: str) -> epath.Path:
        return self._folder / f"samples_{size}.png"

    def _draw(
        self,
        path: epath.Path,
        drawer: Drawer,
        weights: Weights,
        plan: Plan,
        count: int | None,
    ) -> np.ndarray:
        """Writes and returns the grid of the first images of a plan, or of all."""
        request = plan.request.at(slice(count))
        with memory.explain(self._advice):
            samples = np.concatenate(list(drawer(weights, request)))
        shown = pictures.draw_conditions(request, samples.shape[1:3])
        grid = image_grids.render_grid(
            pictures.join(shown, samples), plan.groups[:count]
        )
        if jax.process_index() == 0:
            images.write_png(path, grid)
        return grid


def _read_plan(
    config: Config, trained: Trained, size: tuple[int, int] | None = None
) -> Plan:
    return read_plan(
        *(config, trained.net, trained.classes, trained.lexicon),
        examples=trained.examples,
        size=size,
    )
