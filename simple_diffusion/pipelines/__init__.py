"""Layer 6: a trained model put to use: load, sample, restore, evaluate, export."""
