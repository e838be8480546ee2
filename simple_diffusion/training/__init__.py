"""Floor 3: one step and one loop that train every model."""
