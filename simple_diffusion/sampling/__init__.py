"""Floor 2: a denoise function goes in, images come out."""
