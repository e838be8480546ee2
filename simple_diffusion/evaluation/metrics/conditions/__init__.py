"""Whether images show what they were asked for: pure functions of arrays."""
