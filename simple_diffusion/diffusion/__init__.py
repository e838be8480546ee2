"""Floor 1: the mathematics of diffusion; no parameters, no data."""
