"""Data sources: where images come from."""
