"""Floor 5: one file per mode, run(config, workdir) -> a result a test can look at."""
