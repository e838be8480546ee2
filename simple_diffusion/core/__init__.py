"""Floor 0: the types, arrays, random keys and images that every floor shares."""
