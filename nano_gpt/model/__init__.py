"""The network and its Hugging Face names. Never sees text, files or ranks."""
