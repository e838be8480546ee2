"""Layer 2: the networks; no schedule, no data."""
