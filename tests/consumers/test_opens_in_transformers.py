"""transformers: the Auto classes and the pipeline, by the folder's name and nothing else."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from nano_gpt.checkpoint.source import LoadedModel
from nano_gpt.inference.text import generate


@torch.inference_mode()
def test_auto_classes(loaded: LoadedModel, exported: Path, prompt: str) -> None:
    tokenizer, model = AutoTokenizer.from_pretrained(exported), AutoModelForCausalLM.from_pretrained(exported)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    assert ids[0].tolist() == loaded.tokenizer.encode(prompt)
    assert tokenizer.model_max_length == model.config.max_position_embeddings == loaded.model.config.n_positions
    assert (model(ids).logits - loaded.model(ids)).abs().max() <= 1e-4


def test_pipeline(loaded: LoadedModel, exported: Path, prompt: str) -> None:
    generator = pipeline("text-generation", model=str(exported), device="cpu")
    text = generator(prompt, max_new_tokens=12, do_sample=False)[0]["generated_text"]
    assert text == generate(loaded, prompt, max_new_tokens=12, temperature=0.0)[0]
