"""Scenes drawn by code: images without a download."""
