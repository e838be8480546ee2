"""simple_diffusion: diffusion of images at high and at any resolution in JAX."""
