"""Feature networks: images in, features out."""
