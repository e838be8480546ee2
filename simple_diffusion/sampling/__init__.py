"""Layer 3: a denoise function in, images out."""
