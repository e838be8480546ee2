"""Loads a trained model, draws samples, and writes them as one PNG.

python -m examples.sample runs/quickstart --classes boat,house --guidance 3
"""

import argparse

from etils import epath

import simple_diffusion
from simple_diffusion.pipelines import image_grids


def main() -> None:
    """Reads the flags, draws and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a run, an exported folder, or hf:OWNER/NAME")
    parser.add_argument("--classes", help="names or numbers: boat,3; default: all")
    parser.add_argument("--count", type=int, help="images; default: one per class")
    parser.add_argument("--guidance", type=float, help="default: that of the run")
    parser.add_argument("--steps", type=int, help="default: those of the run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="samples.png")
    flags = parser.parse_args()

    model = simple_diffusion.load(flags.model)
    print(model)
    classes = flags.classes.split(",") if flags.classes else list(model.classes)
    # A keyword that is left out has the value of the run's config.
    keys = {key: getattr(flags, key) for key in ("count", "guidance", "steps")}
    keys = {key: value for key, value in keys.items() if value is not None}
    images = model.sample(
        classes or None, seed=flags.seed, progress=print_progress, **keys
    )
    # One column per class; the classes take turns.
    columns = min(len(classes), image_grids.MAX_COLUMNS) or None
    image_grids.write_sheet(epath.Path(flags.output), images, columns)
    print(f"{len(images)} images {images.shape[1:]}: {flags.output}")


def print_progress(done: int, steps: int, x_hat: object) -> None:
    """Shows how far the drawing is; x_hat is the estimate of the images so far."""
    print(f"\rstep {done}/{steps}", end="\n" if done == steps else "", flush=True)


if __name__ == "__main__":
    main()
