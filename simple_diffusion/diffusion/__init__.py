"""Layer 2: the mathematics of diffusion; no parameters, no data."""
