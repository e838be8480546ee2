"""Layer 6: one HTML page that shows what a run has left in its workdir."""
