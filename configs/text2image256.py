r"""Text to image at 256x256 in pixels, one stage: the U-ViT of simple diffusion.

  python -m simple_diffusion.modes.prepare --input folder:/data/pictures --size 256 \
    --output /data/records --text_encoder /models/t5-v1_1-xxl
  python -m simple_diffusion.main --config text2image256 --workdir runs/t2i256
  python -m simple_diffusion.main --mode sample --workdir runs/t2i256 \
    --config.conditions.text_features.encoder=/models/t5-v1_1-xxl \
    --config.sample.prompts="a red boat" --config.sample.guidance=3

Pictures with captions: a folder with metadata.jsonl or a .txt beside each image, or
--input tar:/data/shards, or --input tfds:coco_captions with --tfds_fields
caption=captions.text. Training reads the stored features and never runs T5. The variant
`text2image256:landscape` makes images of 192x320 and 320x192. See configs/text2image.py
for what is published and what is chosen here.

Expected, as published: zero-shot FID-30K on COCO 8.30; its guidance is not stated.
Status: not run.
"""

from simple_diffusion.configs import text2image


def get_config(variant: str = "square"):
    """Returns the recipe of a variant: square or landscape."""
    return text2image.recipe(256, variant)
