"""Published text encoders: from tokens of a caption to features."""
