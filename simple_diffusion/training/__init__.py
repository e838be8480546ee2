"""Layer 4: one step and one loop that train every model."""
