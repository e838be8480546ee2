"""Fills the hole in a photo with a trained model, in several ways.

python -m examples.restore runs/quickstart photo.png --mask mask.png
python -m examples.restore runs/quickstart photo.png --mask box:12x12 --samples 4

White pixels of the mask are filled; all other pixels keep their values. The model was
not trained for this. Other tasks, such as super_resolution and colourise, are called
the same way: model.restore(photo, "super_resolution", factor=4).
"""

import argparse

import numpy as np
from etils import epath

import simple_diffusion
from simple_diffusion.pipelines import image_grids


def main() -> None:
    """Reads the flags, restores and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a run, an exported folder, or hf:OWNER/NAME")
    parser.add_argument("photo", help="an image file; cropped and resized")
    parser.add_argument("--mask", default="box:12x12", help="a file, or box:HxW")
    parser.add_argument("--samples", type=int, default=4, help="different fillings")
    parser.add_argument("--steps", type=int, help="default: those of the run")
    parser.add_argument("--classes", help="what the photo shows, if you know")
    parser.add_argument("--output", default="restored.png")
    flags = parser.parse_args()

    model = simple_diffusion.load(flags.model)
    keys = {"steps": flags.steps} if flags.steps is not None else {}
    restoration = model.restore(
        flags.photo,
        "inpaint",
        hole_mask=flags.mask,
        samples=flags.samples,
        classes=flags.classes,
        size=model.size,
        **keys,
    )
    # .images [n, h, w, c]: the fillings. .inputs [h, w, c]: the photo with its hole.
    sheet = np.concatenate([restoration.inputs[None], restoration.images])
    image_grids.write_sheet(epath.Path(flags.output), sheet, len(sheet))
    # .residual [n]: how far each filling is from the known pixels, in [-1, 1].
    print("residual:", ", ".join(f"{value:.1e}" for value in restoration.residual))
    print(f"the input and {len(restoration.images)} fillings: {flags.output}")


if __name__ == "__main__":
    main()
