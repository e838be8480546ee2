r"""Semantic map to image on the embedded scenes: minutes on a laptop's CPU.

  launch/local.sh --config scenes_semantic --workdir runs/semantic
  launch/local.sh --mode sample --workdir runs/semantic --config.sample.map=map.png

The quickstart, with a map in place of classes: the category of each pixel, such as sky,
water or tree.
"""

from simple_diffusion.configs import conditions, quickstart


def get_config():
    """Returns the recipe."""
    config = quickstart.get_config()
    config.data.num_classes = 0
    config.conditions.semantic = conditions.semantic(classes=18)
    # The map shows the shapes: fewer steps than the quickstart do.
    config.train.total_steps = 2_000
    return config
