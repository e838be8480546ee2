"""Any-resolution training on CelebA, 64 to 128 pixels.

  launch/local.sh --config configs/anyres_celeba.py --workdir runs/celeba

CelebA must be prepared once; without it, the command prints the instructions. The paper
states only a central crop of 128x128, which has two readings: around the face, (x, y) =
(89, 121), as in most work on diffusion (`ours`, `paper`), or around the centre of the
image, (89, 109) (`ours_center`, `paper_center`). The paper reports FID 11.1 at 64, 26.8
at 96 and 43.3 at 128, and 4.50 for a model trained only at 64.
Status: not run.
"""

from simple_diffusion.configs import anyres

# (y0, x0, y1, x1) of 128x128 pixels in an image of 218x178.
CROPS = {"face": (57, 25, 185, 153), "center": (45, 25, 173, 153)}
VARIANTS = ("ours", "paper", "ours_center", "paper_center")


def get_config(variant: str = "ours"):
    """Returns one of the variants."""
    config = anyres.unet(64, 128)
    config.data.source = "tfds:celeb_a"
    crop = "center" if variant.endswith("center") else "face"
    config.data.crop_box = CROPS[crop]
    config.sample.also_sizes = ("96x96", "128x128")
    anyres.choose(variant, config, VARIANTS)
    return anyres.modern(config) if variant.startswith("ours") else config
