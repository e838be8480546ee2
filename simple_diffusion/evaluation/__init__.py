"""Layer 4: metrics with their errors, and the networks whose features they use."""
