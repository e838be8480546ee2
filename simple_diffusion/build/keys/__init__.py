"""Layer 5: the keys of a config: overrides from the command line."""
