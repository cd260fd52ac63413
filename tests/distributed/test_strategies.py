"""Any number of ranks, in any strategy, makes the same steps as one process: losses, norms, weights, moments."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from strategy_worker import MAX_NORM, Outcome, Run

from nano_gpt.config.training import TrainingConfig
from nano_gpt.errors import CheckpointError, ConfigError
from nano_gpt.runtime.distributed import Ranks
from nano_gpt.training.strategies import weight_shards

WORKER = Path(__file__).with_name("strategy_worker.py")
TOPOLOGIES = [(4, "ddp"), (4, "fsdp"), (4, "hsdp"), (2, "ddp"), (2, "fsdp")]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """What came out of 4 and of 2 ranks; the 2 go on with what the 4 have saved."""
    folder = tmp_path_factory.mktemp("strategies")
    for ranks in (4, 2):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
        done = subprocess.run(
            [*command, str(WORKER), str(folder)],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr
    return {ranks: torch.load(folder / f"{ranks}.pt", weights_only=True) for ranks in (4, 2)}


@pytest.fixture(scope="module")
def alone() -> Outcome:
    run = Run(Ranks())
    return {
        **run.steps(3),
        "names": [name for name, _ in run.strategy.model.named_parameters()],
        "logits": run.logits(),
    }


def assert_same_run(outcome: Outcome, expected: Outcome, *, rel: float = 1e-5) -> None:
    assert outcome["losses"] == pytest.approx(expected["losses"], rel=rel)
    assert outcome["norms"] == pytest.approx(expected["norms"], rel=rel)
    for kind in ("weights", "moments"):
        assert outcome[kind].keys() == expected[kind].keys()
        for name, tensor in expected[kind].items():
            assert type(outcome[kind][name]) is torch.Tensor
            torch.testing.assert_close(
                outcome[kind][name], tensor, rtol=rel, atol=rel, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize(("ranks", "name"), TOPOLOGIES)
def test_same_steps_as_one_process(found: dict[int, Any], alone: Outcome, ranks: int, name: str) -> None:
    outcome = found[ranks][name]
    assert_same_run(outcome, alone)
    assert outcome["names"] == alone["names"] == list(alone["weights"])
    torch.testing.assert_close(outcome["logits"], alone["logits"], rtol=1e-4, atol=1e-5)
    assert not outcome["exchanged early"]
    every = found[ranks]["norms of all ranks"]
    assert all(norms == every[0] for norms in every)


def test_gradients_are_clipped(alone: Outcome) -> None:
    assert min(alone["norms"]) > 1.5 * MAX_NORM
    run = Run(Ranks())
    run.strategy.forward(torch.ones(1, 8, dtype=torch.int64), torch.ones(1, 8, dtype=torch.int64)).backward()
    before = run.strategy.clip_grad_norm(float("inf"))
    assert run.strategy.clip_grad_norm(2.0 * float(before)) == before  # small enough: nothing happens
    assert run.strategy.clip_grad_norm(1.0) == before
    assert float(run.strategy.clip_grad_norm(1.0)) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_fewer_ranks_go_on_with_what_four_saved(found: dict[int, Any], alone: Outcome, name: str) -> None:
    straight, resumed = Run(Ranks()), Run(Ranks())
    straight.steps(3)
    resumed.load(found[4]["fsdp"])
    expected = straight.steps(1)
    assert_same_run(resumed.steps(1), expected)
    assert_same_run(found[2][f"{name} resumed"], expected)


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_recomputed_blocks_change_no_bit(found: dict[int, Any], name: str) -> None:
    plain, recomputed = found[2][f"{name} dropout"], found[2][f"{name} recomputed"]
    assert plain["losses"] != found[2][name]["losses"][:2]  # there is dropout
    assert_same_run(recomputed, plain, rel=0.0)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputing_in_one_process(dropout: float) -> None:
    assert_same_run(
        Run(Ranks(), dropout=dropout, gradient_checkpointing=True).steps(2),
        Run(Ranks(), dropout=dropout).steps(2),
        rel=0.0,
    )


def test_recomputed_blocks_keep_their_input_only() -> None:
    def kept(**settings: Any) -> int:
        sizes: list[int] = []
        ids, run = torch.zeros(8, 8, dtype=torch.int64), Run(Ranks(), **settings)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            run.strategy.forward(ids, ids)
        return sum(sizes)

    assert kept(gradient_checkpointing=True) < 0.5 * kept()


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_bf16_is_as_good_split_as_whole(found: dict[int, Any], alone: Outcome, name: str) -> None:
    expected = Run(Ranks(), dtype=torch.bfloat16).steps(2)
    assert expected["losses"] != alone["losses"][:2]
    assert found[2][f"{name} bf16"]["losses"] == pytest.approx(expected["losses"], rel=1e-5)
    assert found[2][f"{name} bf16"]["norms"] == pytest.approx(expected["norms"], rel=1e-3)
    assert {tensor.dtype for tensor in found[2][f"{name} bf16"]["weights"].values()} == {torch.float32}


@pytest.mark.parametrize(("name", "graphs"), [("ddp", 1), ("fsdp", 2)])
def test_compiled_and_recomputed(found: dict[int, Any], alone: Outcome, name: str, graphs: int) -> None:
    """Under fsdp one graph serves all blocks, whatever their number, and one the head with the loss."""
    outcome = found[2][f"{name} compiled"]
    assert_same_run(outcome, alone)
    assert outcome["graphs"] == graphs + 1  # and the one that probes the compiler


def test_settings_that_do_not_fit_the_ranks(found: dict[int, Any]) -> None:
    assert found[4]["single refused"].startswith("--strategy single, and 4 ranks")
    assert found[4]["fsdp 3 refused"].startswith("training.fsdp_ranks 3 does not divide the 4 ranks")
    with pytest.raises(ConfigError, match="fsdp_ranks is 2, but --strategy is ddp"):
        weight_shards(TrainingConfig(strategy="ddp", fsdp_ranks=2), Ranks(0, 4))


@pytest.mark.parametrize(
    ("settings", "shards"),
    [({}, 1), ({"strategy": "ddp"}, 1), ({"strategy": "fsdp"}, 8), ({"strategy": "fsdp", "fsdp_ranks": 4}, 4)],
)
def test_shards(settings: dict[str, Any], shards: int) -> None:
    assert weight_shards(TrainingConfig(**settings), Ranks(0, 8)) == shards
    assert weight_shards(TrainingConfig(**settings), Ranks(0, 1)) == 1


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_one_process_has_nothing_to_share(strategy: str, alone: Outcome, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        assert_same_run(Run(Ranks(), strategy=strategy).steps(3), alone, rel=0.0)
    assert f"--strategy {strategy}: one process has nothing to share; several: torchrun" in caplog.text


def test_copies_for_a_checkpoint_do_not_change() -> None:
    run = Run(Ranks())
    saved = run.checkpoint()["weights"]
    before = saved["wte.weight"].clone()
    run.steps(1)
    assert torch.equal(saved["wte.weight"], before)
    assert not torch.equal(run.strategy.model.wte.weight, before)
    assert Run(Ranks(rank=1)).checkpoint() == {"weights": {}, "moments": {}}


def test_weights_of_another_model_are_refused_whole() -> None:
    run = Run(Ranks())
    weights = run.checkpoint()["weights"]
    before = weights["wte.weight"].clone()
    weights["wte.weight"] += 1.0
    for wrong, message in (
        ({**weights, "h.0.ln_1.weight": torch.ones(3)}, r"h.0.ln_1.weight is \(3,\), not \(16,\)"),
        ({**weights, "h.3.ln_1.weight": torch.ones(16)}, "h.3.ln_1.weight is in one of them only"),
    ):
        with pytest.raises(CheckpointError, match=message):
            run.strategy.load_weights(wrong)
        assert torch.equal(run.strategy.model.wte.weight, before)


@pytest.fixture
def nccl() -> Iterator[None]:
    dist.init_process_group("cpu:gloo,cuda:nccl", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_on_a_gpu(nccl: None, alone: Outcome, strategy: str) -> None:
    run = Run(Ranks(), device="cuda:0", strategy=strategy)
    assert_same_run(run.steps(3), alone, rel=1e-3)
    torch.testing.assert_close(run.logits(), alone["logits"], rtol=1e-2, atol=1e-3)
    bf16 = {"device": "cuda:0", "dtype": torch.bfloat16}
    whole = Run(Ranks(), **bf16, strategy="single").steps(2)
    for settings in ({}, {"gradient_checkpointing": True}, {"gradient_checkpointing": True, "compile": True}):
        outcome = Run(Ranks(), **bf16, strategy=strategy, **settings).steps(2)
        assert outcome["losses"] == pytest.approx(whole["losses"], rel=1e-2)
        assert outcome["norms"] == pytest.approx(whole["norms"], rel=5e-2)
