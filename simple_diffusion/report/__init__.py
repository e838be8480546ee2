"""Layer 6: one HTML page with the results of a run."""
