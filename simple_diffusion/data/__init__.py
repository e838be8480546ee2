"""Layer 2: from a data source to sharded batches; no schedule, no network."""
