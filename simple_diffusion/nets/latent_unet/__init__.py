"""The U-Net of latent diffusion and of Stable Diffusion."""
