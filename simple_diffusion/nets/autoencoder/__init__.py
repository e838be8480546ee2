"""Autoencoders of latent diffusion, and the discriminator that they train against."""
