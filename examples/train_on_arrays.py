"""Trains a model on numpy arrays, with the library's step, and saves it.

python -m examples.train_on_arrays --output runs/arrays
python -m examples.train_on_arrays --data mine.npz --output runs/mine

`mine.npz` holds `images`, uint8 [n, side, side, 3], and `labels`, class numbers [n].
Without it two classes are drawn: discs and squares. The function `train` is a complete
training in 30 lines of code. `--mode train` adds checkpoints and exact resume, metrics,
evaluation, several machines, and images of any size and format.
"""

import argparse

import jax
import numpy as np
from etils import epath

from simple_diffusion.build import diffusion, network, recipes, training
from simple_diffusion.core.types import Batch, Weights
from simple_diffusion.pipelines import image_grids
from simple_diffusion.pipelines.model import Model
from simple_diffusion.pipelines.trained import Trained
from simple_diffusion.training import loop, sharding, state, step


def train(config, images: np.ndarray, labels: np.ndarray, classes: list[str]) -> Model:
    """Returns a model of images [n, side, side, 3], uint8, and their class numbers."""
    total, size = config.train.total_steps, config.train.batch_size
    net = network.build_network(config, num_classes=len(classes))
    mesh = sharding.make_mesh()  # all devices of this machine
    optimizer, averages = (
        training.build_optimizer(config, total),
        training.build_averages(config),
    )
    plan = state.blueprint(net.init, optimizer, averages, mesh=mesh)
    objective = diffusion.build_objective(config, net)
    train_step = step.make_train_step(objective, optimizer, averages)
    train_step = loop.jit_step(train_step, plan.shardings, mesh)

    now, losses = plan.create(), []
    draw = np.random.default_rng(0)
    for done in range(1, total + 1):
        index = draw.integers(len(images), size=size)
        batch = Batch(
            image=images[index],
            label=labels[index].astype(np.int32),
            box=np.tile(np.float32([0, 0, 1, 1]), (size, 1)),  # full images
            mask=np.ones(size, bool),  # no padding
        )
        batch = jax.device_put(batch, sharding.batch_sharding(mesh))
        now, metrics = train_step(now, batch)
        losses.append(metrics["loss"])
        if done % max(total // 10, 1) == 0 or done == total:
            recent = np.mean(jax.device_get(losses[-max(total // 10, 1) :]))
            print(f"step {done}/{total}  loss {recent:.4f}", flush=True)
    weights = Weights(now.ema["main"])
    return Model(config, Trained(net, weights, mesh, tuple(classes), step=total))


def draw_shapes(count: int, side: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Returns images of discs and squares, their class numbers, and the class names."""
    draw = np.random.default_rng(1)
    labels = draw.integers(2, size=count)
    y, x = np.mgrid[:side, :side]
    images = np.empty((count, side, side, 3), np.uint8)
    for k, label in enumerate(labels):
        radius = draw.uniform(0.2, 0.4) * side
        cy, cx = draw.uniform(radius, side - radius, size=2)
        dy, dx = np.abs(y + 0.5 - cy), np.abs(x + 0.5 - cx)
        inside = (np.maximum(dy, dx) if label else np.hypot(dy, dx)) < radius
        back, front = draw.integers(0, 100, 3), draw.integers(156, 256, 3)
        images[k] = np.where(inside[..., None], front, back)
    return images, labels, ["disc", "square"]


def main() -> None:
    """Reads the flags, trains, saves and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="an .npz file with images and labels")
    parser.add_argument("--recipe", default="quickstart", help="network and settings")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--output", default="runs/arrays", help="a folder")
    flags = parser.parse_args()

    config = recipes.load(flags.recipe)
    config.train.total_steps = flags.steps
    # The recipe warms up for a thirtieth of its steps: 100 of 3000.
    config.optimizer.warmup_steps = flags.steps // 30
    if flags.data:
        with np.load(flags.data) as file:
            images, labels = file["images"], file["labels"]
        classes = [f"class {k}" for k in range(labels.max() + 1)]
    else:
        images, labels, classes = draw_shapes(2_000, config.data.resolution)
    config.data.resolution = images.shape[1]

    model = train(config, images, labels, classes)
    folder = model.save(flags.output)
    image_grids.write_sheet(
        epath.Path(folder) / "samples.png", model.sample(count=8 * len(classes)), None
    )
    print(f"{model}: simple_diffusion.load({str(folder)!r})")


if __name__ == "__main__":
    main()
