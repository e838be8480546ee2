r"""Text to image on the embedded scenes: minutes on a laptop's CPU.

  launch/local.sh --config scenes_text --workdir runs/text
  launch/local.sh --mode sample --workdir runs/text \
    --config.sample.prompts="One blue car on a road, on the left."

The quickstart, with captions in place of classes: a sentence with object, count, colour
and place. Its words are read by a transformer of two blocks that is trained together
with the network.
"""

from simple_diffusion.configs import conditions, quickstart

PROMPTS = (
    "One white sailing boat with red sails on the sea, on the left.",
    "Two green trees on a hill, in the middle.",
    "One blue car on a road, on the right.",
    "Two purple balloons with yellow stripes in the sky, in the middle.",
    "Two yellow fish in blue water, in the middle.",
    "One yellow house with a brown roof, on the left.",
)


def get_config():
    """Returns the recipe."""
    config = quickstart.get_config()
    config.data.num_classes = 0
    # The captions name sides, which a mirrored image exchanges.
    config.data.flip_captions = "swap"
    config.conditions.text = conditions.text(length=24)
    # A cross-attention needs more steps than a class before it is followed.
    config.train.total_steps = 4_000
    config.sample.prompts = "; ".join(PROMPTS)
    return config
