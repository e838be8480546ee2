"""Raw conditions, such as a caption or boxes, as tokens, image and vector."""
