"""Frozen text encoders with their tokenizers, and features of captions."""
