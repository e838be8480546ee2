r"""Text to image at 512x512 in pixels, one stage: the U-ViT of simple diffusion.

  python -m simple_diffusion.modes.prepare --input folder:/data/pictures --size 512 \
    --output /data/records --text_encoder /models/t5-v1_1-xxl
  python -m simple_diffusion.main --config text2image512 --workdir runs/t2i512
  python -m simple_diffusion.main --mode sample --workdir runs/t2i512 \
    --config.conditions.text_features.encoder=/models/t5-v1_1-xxl \
    --config.sample.prompts="a red boat" --config.sample.guidance=3

Data, variants and what is published: as configs/text2image256.py; the images of
`text2image512:landscape` have 384x640 or 640x384 pixels.

Expected, as published: zero-shot FID-30K on COCO 9.57; its guidance is not stated.
Status: not run.
"""

from simple_diffusion.configs import text2image


def get_config(variant: str = "square"):
    """Returns the recipe of a variant: square or landscape."""
    return text2image.recipe(512, variant)
