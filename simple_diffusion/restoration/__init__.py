"""Floor 3: degraded images restored by any model, by null-space projection."""
