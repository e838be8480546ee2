"""Prepared datasets: many images in a few large files."""
