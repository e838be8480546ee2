"""Grids of samples that a training writes during the run and at its end."""

from collections.abc import Callable

import jax
import numpy as np
from etils import epath

from simple_diffusion.build import sampling
from simple_diffusion.core import console, files, images, memory
from simple_diffusion.core.options import Config
from simple_diffusion.core.types import Request, Weights
from simple_diffusion.pipelines import image_grids
from simple_diffusion.pipelines.programs import Drawer, make_drawer
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
        plan = sampling.read_plan(config, net, trained.classes, trained.tokenizer)
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
        self._request, self._groups = plan.request, plan.groups
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
        first = self._request.at(slice(self._batch))
        request = self._request if is_last else first
        shown = {"samples": self._draw(path, self.drawer, weights, request)}
        console.print_line(f"samples of step {step}: {path}")
        for size, drawer in self._extra.items() if is_last else ():
            path = self._path_of(size)
            grid = self._draw(path, drawer, weights, first)
            shown[f"samples_{size}"] = grid
            console.print_line(f"samples at {size}: {path}")
        if show is not None:
            show(step, shown)

    def _path_of(self, size: str) -> epath.Path:
        return self._folder / f"samples_{size}.png"

    def _draw(
        self, path: epath.Path, drawer: Drawer, weights: Weights, request: Request
    ) -> np.ndarray:
        groups = self._groups[: len(request.label)]
        with memory.explain(self._advice):
            pictures = np.concatenate(list(drawer(weights, request)))
        grid = image_grids.render_grid(pictures, groups)
        if jax.process_index() == 0:
            images.write_png(path, grid)
        return grid
