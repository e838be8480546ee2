"""Layer 2: published weights: readers of file formats, and maps of names."""
