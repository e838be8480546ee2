"""Layer 4: degraded images restored by any model, by null-space projection."""
