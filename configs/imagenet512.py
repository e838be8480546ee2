"""ImageNet 512x512 in pixels: simple diffusion (:unet, :uvit) and SiD2 (:sid2).

  python -m simple_diffusion.main --config configs/imagenet512.py --workdir runs/im512

The default is :uvit. Expected, as published without guidance unless stated:
U-Net FID 4.30 (train) / 4.28 (eval); U-ViT 3.54 / 4.53, 3.02 guided by 1.10.
U-ViT: 128 TPUv4 devices, 3.9 days. Status: not run.
"""

from simple_diffusion.configs import imagenet


def get_config(variant: str = "uvit"):
    """Returns the recipe of a variant: unet, uvit or sid2."""
    return imagenet.recipe(variant, resolution=512)
