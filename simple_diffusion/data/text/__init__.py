"""Captions as token ids: the one place that uses the tokenizers library."""
