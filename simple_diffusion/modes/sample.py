"""Mode `sample`: images of a trained model as PNGs, a grid, and an .npz."""

import time
from typing import NamedTuple

import jax
import numpy as np
from etils import epath

from simple_diffusion.build import network, sampling, training
from simple_diffusion.core import files, images
from simple_diffusion.core.options import Config
from simple_diffusion.pipelines import compiled, image_grids, runs, trained_weights


class Result(NamedTuple):
    """What was drawn.

    images: uint8, [n, h, w, c], with their labels [n].
    grid: the picture that shows them all.
    """

    images: np.ndarray
    labels: np.ndarray
    grid: epath.Path


def run(config: Config, workdir: str) -> Result:
    """Draws `sample.count` images with the parameters of a workdir.

    Writes into the folder `samples` of the workdir: `00000_CLASS.png` and so on,
    `grid.png` with all of them, and `samples.npz` with `arr_0` (images) and `arr_1`
    (labels), as evaluators read it.
    """
    with training.watch(config):
        return _run(config, workdir)


def _run(config: Config, workdir: str) -> Result:
    folder = files.folder(workdir)
    names = runs.class_names(folder)
    runs.compare(config, folder, files.say)
    built = network.model(config, len(names))
    mesh = training.mesh(config)
    plan = sampling.plan(config, built, names)
    step, params = trained_weights.load(folder, built, mesh, plan)
    weak, weak_params = trained_weights.load_weak(plan, len(names), mesh)
    sampler = sampling.sampling(config, built, weak, mesh=mesh)
    draw = compiled.drawer(sampler, mesh, plan.batch_size)
    height, width = sampler.size
    files.say(
        f"sampling {len(plan.labels)} images of {height}x{width} from step {step}: "
        f"{config.sample.solver}, {sampler.network_calls} network calls each, "
        f"guidance {sampler.guidance:g}"
        + (f", {sampler.windows} windows an image" if sampler.windows else "")
    )
    on_patches = runs.config(folder).data.get("patches") is not None
    if sampler.size != built.size[:2] and not on_patches:
        files.say(
            f"note: this model was trained at {built.size[0]}x{built.size[1]} without "
            "data.patches: at another size it extrapolates, and structure usually "
            "breaks; configs/anyres_*.py train for any size"
        )
    start, drawn = time.perf_counter(), []
    for batch in draw(params, plan.labels, weak_params):
        drawn.append(batch)
        done = sum(map(len, drawn))
        rate = done / (time.perf_counter() - start)
        left = (len(plan.labels) - done) / rate
        files.say(
            f"  {done}/{len(plan.labels)}  {rate:.2f} images/s  {left:.0f} s left"
        )
    every = np.concatenate(drawn)
    grid = folder / "samples" / "grid.png"
    if jax.process_index() == 0:
        for old in (folder / "samples").glob("*.png"):
            old.unlink()  # a mixture of two runs would be neither
        for k, (image, label) in enumerate(zip(every, plan.labels, strict=True)):
            name = names[label] if names else str(label)
            path = folder / "samples" / image_grids.file_name(k, 5, name)
            images.write_png(path, image)
        image_grids.write_grid(grid, every, plan.labels)
        with (folder / "samples" / "samples.npz").open("wb") as file:
            np.savez(file, every, plan.labels)
    files.say(f"{len(every)} PNGs, grid.png and samples.npz in {folder / 'samples'}")
    return Result(every, plan.labels, grid)
