"""Layer 5: from a config to typed objects, the only composition root."""
