"""Networks as Hugging Face publishes them: folders of safetensors, and maps of names."""
