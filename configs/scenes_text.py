r"""Text to image on the embedded scenes: minutes on a laptop's CPU.

  launch/local.sh --config scenes_text --workdir runs/text
  launch/local.sh --mode sample --workdir runs/text \
    --config.sample.prompts="a blue car on the left; two yellow fish"

The quickstart, with captions in place of classes, from "a red boat" to a sentence with
object, count, colours, setting and place. Their words are read by a transformer of two
blocks that is trained together with the network. One in ten combinations of object,
colour, count and place is held out: what the model makes of those it has combined
itself.
"""

from simple_diffusion.configs import conditions, quickstart

PROMPTS = (
    "One white sailing boat with red sails on the sea, on the left.",
    "two green trees",
    "a blue car on the right",
    "two purple balloons in the sky",
    "two yellow fish",
    "a house with a brown roof on the left",
)


def get_config():
    """Returns the recipe."""
    config = quickstart.get_config()
    config.data.source = "scenes:held_out_combinations"
    config.data.num_classes = 0
    # The captions name sides, which a mirrored image exchanges.
    config.data.flip_captions = "swap"
    config.conditions.text = conditions.text(length=24)
    # Where an object is, only the highest noise levels hide. There min_snr weighs next
    # to nothing, and the modulation of all blocks learns it sooner than attention.
    config.loss.min_snr_floor = 1.0
    config.conditions.text.pooled = True
    # A cross-attention needs more steps than a class before it is followed.
    config.train.total_steps = 4_000
    config.sample.prompts = "; ".join(PROMPTS)
    return config
