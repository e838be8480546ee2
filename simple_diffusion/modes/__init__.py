"""Layer 7: the modes of the command line, each run(config, workdir)."""
