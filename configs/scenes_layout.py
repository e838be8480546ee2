r"""Layout to image on the embedded scenes: minutes on a laptop's CPU.

  launch/local.sh --config scenes_layout --workdir runs/layout
  launch/local.sh --mode sample --workdir runs/layout --config.sample.layout=boxes.json

The quickstart, with boxes in place of classes: each object of a scene has a box and a
class, such as car or tree, and becomes one token for cross-attention.
"""

from simple_diffusion.configs import conditions, quickstart


def get_config():
    """Returns the recipe."""
    config = quickstart.get_config()
    config.data.num_classes = 0
    config.conditions.layout = conditions.layout(classes=18)
    # Where objects are, only the highest noise levels hide, see scenes_text.
    config.loss.min_snr_floor = 1.0
    return config
