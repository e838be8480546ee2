"""Metrics of images that were made for a condition: do they show what was asked for."""
