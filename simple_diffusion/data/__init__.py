"""Floor 1: from a source of images to sharded batches; no schedule, no network."""
