"""Any-resolution training on FlickrScenery, 128 to 256 pixels.

  launch/local.sh --config configs/anyres_flickrscenery.py --workdir runs/scenery \\
    --config.data.source=folder:/path/to/flickrscenery

The folder holds the photographs; their shorter side must be at least 256 pixels.
Variants: `ours` (the default) and `paper` (see anyres.py). For the latter the paper
reports FID 32.2 at 128, 64.1 at 192 and 126 at 256, and 19.3 for a model trained only
at 128.
Status: not run.
"""

from simple_diffusion.configs import anyres


def get_config(variant: str = "ours"):
    """Returns one of the variants."""
    config = anyres.unet(128, 256)
    config.data.source = "folder:flickrscenery"
    config.data.crop = "random"
    config.sample.also_sizes = ("192x192", "256x256")
    anyres.choose(variant, config)
    return anyres.modern(config) if variant == "ours" else config
