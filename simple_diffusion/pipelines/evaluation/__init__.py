"""Compares the samples of a model, or any images, with a reference set."""
