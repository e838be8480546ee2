"""Networks of Hugging Face: folders of safetensors, and maps of names."""
