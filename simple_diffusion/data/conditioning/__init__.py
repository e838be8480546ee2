"""Host encoders: fields of examples as arrays of fixed shapes."""
