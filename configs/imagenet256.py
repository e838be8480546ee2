"""ImageNet 256x256 in pixels: simple diffusion (:unet, :uvit) and SiD2 (:sid2).

  python -m simple_diffusion.main --config configs/imagenet256.py --workdir runs/im256

The default is :uvit. Expected, as published without guidance unless stated:
U-Net FID 3.76 (train) / 3.71 (eval); U-ViT 2.77 / 3.75, 2.44 guided by 1.10.
U-ViT: 128 TPUv4 devices, 3.9 days. Status: not run.
"""

from simple_diffusion.configs import imagenet


def get_config(variant: str = "uvit"):
    """Returns the recipe of a variant: unet, uvit or sid2."""
    return imagenet.recipe(variant, resolution=256)
