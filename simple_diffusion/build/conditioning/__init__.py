"""Layer 5: conditions besides class and place: their parts, and prompts."""
