"""The section `restore`: tasks, operators, algorithms."""
