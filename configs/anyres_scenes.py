"""Any-resolution training on the embedded scenes: minutes on a laptop's CPU.

  launch/local.sh --config configs/anyres_scenes.py --workdir runs/anyres
  launch/local.sh --mode sample --config configs/anyres_scenes.py \\
    --workdir runs/anyres --config.sample.size=48x96

Patches of 32x32 from scenes of 32 to 64 pixels a side; samples at 1x, 1.5x and 2x.
Variants: `ours` (the default) and `paper` (see anyres.py). Both use the quickstart's
network and, to train within minutes, its prediction and loss.
"""

from simple_diffusion.configs import anyres, base, quickstart


def get_config(variant: str = "ours"):
    """Returns one of the variants."""
    config = quickstart.get_config()
    config.data.patches = base.patches(32, 64)
    config.train.total_steps = 1_500
    config.sample.also_sizes = ("48x48", "64x64")
    return anyres.choose(variant, config)
