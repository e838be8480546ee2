"""Text to image on the embedded scenes: minutes on a laptop's CPU.

  launch/local.sh --config scenes_text --workdir runs/text
  launch/local.sh --mode sample --workdir runs/text --config.sample.prompts="a red boat"

The quickstart, with captions in place of classes: a sentence with object, count, colour
and place. Its words are read by a transformer of two blocks that is trained together
with the network.
"""

from simple_diffusion.configs import conditions, quickstart

PROMPTS = (
    "A red boat, on the left.",
    "Two green trees, in the middle.",
    "A blue car, on the right.",
    "Three red balloons, in the middle.",
    "Two yellow fish, on the left.",
    "A house with a red roof, on the right.",
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
