"""Layer 1: types, arrays, random keys, images and files that every layer shares."""
