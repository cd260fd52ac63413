"""Checkpoints that other trainers wrote, opened as they are: nanoGPT, build-nanogpt, allenporter/nano-gpt, llm.c."""
