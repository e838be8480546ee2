"""Floor 1: the networks; no schedule, no data."""
