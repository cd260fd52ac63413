"""Text <-> ids: GPT-2's BPE, bytes, characters, and BPE trained on a corpus."""
