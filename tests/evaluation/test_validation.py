"""Validation loss: the mean over tokens, whatever the batches, the ranks and the padding."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_evaluation_models import made_up_items, redrawn_model

from nano_gpt.data.loader import Batch
from nano_gpt.errors import DataError
from nano_gpt.evaluation import scoring
from nano_gpt.evaluation.hellaswag import HellaSwagTest
from nano_gpt.evaluation.results import summary
from nano_gpt.evaluation.validation import ValidationResult, bits_per_byte, validation_loss
from nano_gpt.model.loss import IGNORED_TARGET
from nano_gpt.tokenizer import load_tokenizer


def text_batches(rows_per_batch: int, rows: int = 5, length: int = 16, vocabulary: int = 50) -> list[Batch]:
    """The same rows in batches of any size; the last row is a short one."""
    tokens = torch.randint(vocabulary, (rows, length + 1), generator=torch.Generator().manual_seed(1))
    ids, targets = tokens[:, :-1], tokens[:, 1:].clone()
    targets[-1, 3:] = IGNORED_TARGET
    return [Batch(*pair) for pair in zip(ids.split(rows_per_batch), targets.split(rows_per_batch), strict=True)]


def test_is_the_mean_over_all_tokens() -> None:
    model = redrawn_model(50)
    (batch,) = text_batches(5)
    with torch.no_grad():
        expected = F.cross_entropy(model(batch.ids).flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED_TARGET)
    result = validation_loss(model, [batch])
    assert result.loss == pytest.approx(expected.item(), rel=1e-6)
    assert result.tokens == 4 * 16 + 3
    assert result.perplexity == pytest.approx(math.exp(expected.item()), rel=1e-6)
    assert result.bits_per_byte is None


def test_batches_and_pieces_of_the_head_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    model = redrawn_model(50)
    whole = validation_loss(model, text_batches(5))
    monkeypatch.setattr(scoring, "HEAD_POSITIONS", 7)
    for rows in (1, 2, 3):
        part = validation_loss(model, iter(text_batches(rows)))
        assert part.tokens == whole.tokens
        assert part.loss == pytest.approx(whole.loss, rel=1e-6)


def test_no_dropout_and_training_mode_comes_back() -> None:
    model = redrawn_model(50)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    expected = validation_loss(model, text_batches(2)).loss
    assert not model.training
    model.train()
    assert validation_loss(model, text_batches(2)).loss == expected
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())

    def failing() -> object:
        raise OSError("a shard is gone")
        yield

    with pytest.raises(OSError, match="shard"):
        validation_loss(model, failing())  # type: ignore[arg-type]
    assert model.training


def test_bits_per_byte() -> None:
    assert bits_per_byte(math.log(256), bytes_per_token=1.0) == pytest.approx(8.0)  # knowing nothing of a byte
    model = redrawn_model(50)
    result = validation_loss(model, text_batches(5), bytes_per_token=4.0)
    assert result.bits_per_byte == pytest.approx(result.loss / math.log(2) / 4.0)


def test_the_line_and_the_fields() -> None:
    result = validation_loss(redrawn_model(50), text_batches(5), bytes_per_token=2.0)
    fields = dict(part.split(": ") for part in summary(result).removeprefix("val: ").split(" | "))
    old = ["loss", "perplexity", "bits_per_byte", "tokens_evaluated"]
    assert list(fields) == list(result.fields()) == [*old, "stderr", "bits_per_byte_stderr"]
    assert fields["loss"] == f"{result.loss:.4f}"
    assert "bits_per_byte: -" in summary(validation_loss(redrawn_model(50), text_batches(5)))


def test_the_standard_error_is_that_of_windows() -> None:
    """Of equal windows: the standard deviation of their means over the root of their number."""
    means = np.random.default_rng(0).normal(3.0, 0.2, 500)
    result = ValidationResult(np.stack([means * 64, np.full(500, 64.0)], axis=1), bytes_per_token=4.0)
    assert result.stderr == pytest.approx(means.std(ddof=1) / np.sqrt(500))
    assert result.fields()["bits_per_byte_stderr"] == pytest.approx(result.stderr / math.log(2) / 4)
    assert ValidationResult(result.windows[:1]).stderr is None


def test_nothing_to_validate_on() -> None:
    with pytest.raises(DataError, match="nothing to validate on"):
        validation_loss(redrawn_model(50), [])


TWO_RANKS = """
import json, sys
sys.path.insert(0, sys.argv[1])
import torch
from small_evaluation_models import made_up_items, redrawn_model
from test_validation import text_batches
from nano_gpt.errors import DataError, NetworkError
from nano_gpt.evaluation.hellaswag import HellaSwagTest
from nano_gpt.evaluation.hellaswag_items import load_items
from nano_gpt.evaluation.validation import validation_loss
from nano_gpt.runtime.distributed import from_environment, from_main, process_group
from nano_gpt.tokenizer import load_tokenizer

ranks = from_environment()
with process_group(ranks, torch.device("cpu")):
    batches = text_batches(1)
    share = batches[:4] if ranks.rank == 0 else batches[4:]  # unequal, and the short row is alone
    found = validation_loss(redrawn_model(50), share).fields()
    test = HellaSwagTest(made_up_items(9), load_tokenizer("byte"), rank=ranks.rank, world_size=ranks.world_size)
    found |= {"hellaswag": test.evaluate(redrawn_model(257, n_positions=512)).fields()}
    def refuse():
        assert ranks.is_main
        raise NetworkError("no network", "a hint")
    try:
        from_main(refuse)
    except NetworkError as error:
        found["error"] = str(error)
    found["from_main"] = from_main(lambda: ranks.rank)
open(f"{sys.argv[2]}/{ranks.rank}.json", "w").write(json.dumps(found))
"""


def test_two_ranks_are_one(tmp_path: Path) -> None:
    script = tmp_path / "two_ranks.py"
    script.write_text(TWO_RANKS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    here = str(Path(__file__).parent)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, here, str(tmp_path)], env=environment, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    both = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert both[0] == both[1]
    alone = validation_loss(redrawn_model(50), text_batches(5))
    assert both[0]["loss"] == pytest.approx(alone.loss, rel=1e-6)
    assert both[0]["tokens_evaluated"] == alone.tokens
    test = HellaSwagTest(made_up_items(9), load_tokenizer("byte"))
    assert both[0]["hellaswag"] == test.evaluate(redrawn_model(257, n_positions=512)).fields()
    assert both[0]["error"] == "no network\n  hint: a hint"
    assert both[0]["from_main"] == 0
