"""Layer 6: using a trained model: load, sample, restore, evaluate, export."""
