"""lm-eval: `lm_eval --model hf --model_args pretrained=FOLDER`, here by the class behind that name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nano_gpt.checkpoint.source import LoadedModel


@torch.inference_mode()
def test_log_likelihoods(loaded: LoadedModel, exported: Path, prompt: str) -> None:
    """Of made-up items, with and without a context, in one batch of unequal lengths."""
    pytest.importorskip("lm_eval.models.huggingface", reason="needs lm-eval: the extra of that name")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    items = [(prompt, ", and so on"), (prompt, " or 5"), ("", "naïve 日本茶"), ("don't", " sell")]
    theirs = HFLM(pretrained=str(exported), device="cpu", batch_size=4)
    assert theirs.max_length == loaded.model.config.n_positions
    assert theirs.eot_token_id == theirs.prefix_token_id == loaded.tokenizer.eot_id
    requests = [Instance("loglikelihood", {}, item, index) for index, item in enumerate(items)]
    for (context, continuation), (found, _) in zip(
        items, theirs.loglikelihood(requests, disable_tqdm=True), strict=True
    ):
        given = loaded.tokenizer.encode(context) or [loaded.tokenizer.eot_id]
        ids = given + loaded.tokenizer.encode(continuation)
        log_probabilities = loaded.model(torch.tensor([ids]))[0].log_softmax(-1)
        expected = sum(float(log_probabilities[i - 1, ids[i]]) for i in range(len(given), len(ids)))
        assert found == pytest.approx(expected, abs=1e-4)
