"""Training an autoencoder against a discriminator: what both minimise, and the step."""
