"""What a run survives: real processes, real faults."""
