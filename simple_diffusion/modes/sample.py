"""Mode `sample`: samples of a trained model as PNGs, a grid, and an .npz file."""

import json
from typing import NamedTuple

import jax
import numpy as np
from etils import epath

from simple_diffusion.build import training
from simple_diffusion.core import console, files, images
from simple_diffusion.core.options import Config
from simple_diffusion.pipelines import image_grids, open_run, runs, sampling
from simple_diffusion.pipelines.requests import pictures


class Result(NamedTuple):
    """The samples.

    images: uint8, [n, h, w, c], with their labels [n].
    grid: path of the grid of all images.
    """

    images: np.ndarray
    labels: np.ndarray
    grid: epath.Path


def run(config: Config, workdir: str) -> Result:
    """Samples `sample.count` images with the parameters of a workdir.

    Writes into `sample.output`, by default the next free folder of `samples`,
    `samples_2`, ... in the workdir: `00000_CLASS.png` and so on, `grid.png` with all
    images, each to the right of the picture of its conditions if they have one, and
    `samples.npz` with `arr_0` (images) and `arr_1` (labels), the format of common
    evaluators. Each PNG has the settings as text, the .npz as `settings`, and the
    prompts as `prompts`.

    Raises:
      ValueError: settings are invalid, or the folder holds files.
    """
    with training.build_watchdog(config):
        return _run(config, workdir)


def _run(config: Config, workdir: str) -> Result:
    folder = files.resolve_folder(workdir)
    names = runs.load_classes(folder)
    runs.print_differences(config, folder)
    output = sampling.choose_output(config, folder)
    model = open_run.open_run(config, workdir)
    samples = model.prepare_samples()
    height, width = samples.size
    console.print_line(
        f"sampling {len(samples)} images of {height}x{width} from step {model.step}: "
        f"{config.sample.solver}, {samples.network_calls} network calls each, "
        f"guidance {samples.guidance:g}"
        + (f", {samples.windows} windows an image" if samples.windows else "")
    )
    if samples.note is not None:
        console.print_line(samples.note)
    batches = []
    with console.show_progress("sampling", len(samples), "images") as show:
        for batch in samples:
            batches.append(batch)
            show(sum(map(len, batches)))
    pixels, grid = np.concatenate(batches), output / "grid.png"
    if jax.process_index() == 0:
        settings = samples.describe() | {"run": folder.name, "step": model.step}
        titles = samples.titles or [
            names[k] if k < len(names) else str(k) for k in samples.labels
        ]
        kind = "prompt" if samples.prompts else "input" if samples.titles else "class"
        for k, (image, title) in enumerate(zip(pixels, titles, strict=True)):
            path = output / image_grids.format_file_name(k, 5, title)
            images.write_png(path, image, {kind: title, "number": k} | settings)
        shown = pictures.join(samples.pictures, pixels)
        image_grids.write_grid(grid, shown, samples.groups)
        with (output / "samples.npz").open("wb") as file:
            further = {"settings": np.array(json.dumps(settings))}
            if samples.prompts:
                further["prompts"] = np.array(samples.prompts)
            np.savez(file, pixels, samples.labels, **further)  # pyright: ignore
    console.print_line(f"{len(pixels)} PNGs, grid.png and samples.npz in {output}")
    return Result(pixels, samples.labels, grid)
