"""Small networks that read from images what their conditions ask for."""
