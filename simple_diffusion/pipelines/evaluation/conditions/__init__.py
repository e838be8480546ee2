"""What samples of models with conditions are asked for, and whether they show it."""
