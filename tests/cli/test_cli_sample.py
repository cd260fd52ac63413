"""`nano-gpt sample` as a user types it."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nano_gpt.cli.main import run
from nano_gpt.cli.terminal import printable
from nano_gpt.inference.writing import Completion, Writer
from nano_gpt.tokenizer import load_tokenizer

Capture = pytest.CaptureFixture[str]


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: True)


def test_lines_of_the_predecessors_form(folder: str, capsys: Capture) -> None:
    assert run(["sample", "--pretrained", folder, "Hello,"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    for line in lines:
        assert re.fullmatch(r"> Hello,[a-z]{24}", line)  # 30 tokens in all, a byte each
    assert len(set(lines)) == 5


def test_several_prompts_and_the_predecessors_flag_names(folder: str, capsys: Capture) -> None:
    names = ["--sample_num_sequences=2", "--sample-max-length", "10", "--sample-seed=1", "--device=cpu"]
    assert run(["sample", "one", "two", "--pretrained", folder, *names]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:5] for line in lines] == ["> one", "> one", "> two", "> two"]
    assert all(len(line) == 12 for line in lines)
    short = ["--num-sequences=2", "--max-length=10", "--seed=1"]
    assert run(["sample", "one", "two", "--pretrained", folder, *short]) == 0
    assert capsys.readouterr().out.splitlines() == lines
    assert run(["sample", "two", "--pretrained", folder, "--num-sequences=1", "--max-length=10", "--seed=1"]) == 0
    assert capsys.readouterr().out.splitlines() == lines[2:3]  # not a function of what else was asked for
    assert run(["sample", "two", "--pretrained", folder, "--num-sequences=1", "--max-length=10", "--seed=2"]) == 0
    assert capsys.readouterr().out.splitlines() != lines[2:3]


def test_no_text_is_the_customary_prompt_and_an_empty_one_is_nothing(folder: str, capsys: Capture) -> None:
    assert run(["sample", "--pretrained", folder]) == 0
    assert capsys.readouterr().out.startswith("> Hello, I'm a language model,")
    assert run(["sample", "", "--pretrained", folder, "--num-sequences=1", "--max-length=4"]) == 0
    assert re.fullmatch(r"> [a-z]{4}\n", capsys.readouterr().out)


def test_json(folder: str, capsys: Capture) -> None:
    arguments = [
        "sample",
        "ab",
        "",
        "--pretrained",
        folder,
        "--max-new-tokens=6",
        "--num-sequences=2",
        "--top-k=0",
        "--json",
    ]
    assert run(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["model"].endswith("model")
    assert result["sampling"] == {
        "num_sequences": 2,
        "temperature": 1.0,
        "top_k": None,
        "top_p": 1.0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "stop": [],
        "seed": 42,
        "max_new_tokens": 6,
    }
    assert result["tokens_per_second"] > 0
    assert [one["prompt"] for one in result["sequences"]] == ["ab", "ab", "", ""]
    for one in result["sequences"]:
        assert one["text"] == one["prompt"] + bytes(one["tokens"]).decode()
        assert len(one["tokens"]) == 6 and one["finish_reason"] == "length"
        assert len(one["logprobs"]) == 6 and all(logprob < 0 for logprob in one["logprobs"])


def test_a_dash_reads_stdin(folder: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def stdin(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))

    stdin("två\nrader\n".encode())
    assert run(["sample", "-", "--pretrained", folder, "--num-sequences=1"]) == 0
    assert re.fullmatch(r"> två\nrader[a-z]{20}\n", capsys.readouterr().out)
    stdin(b"abc\xff")
    assert run(["sample", "-", "--pretrained", folder]) == 1
    assert "not UTF-8: byte 3" in capsys.readouterr().err


def test_markup_is_not_interpreted(folder: str, capsys: Capture) -> None:
    prompt = "[red]x[/foo] \\[b] :smile:"
    assert run(["sample", prompt, "--pretrained", folder]) == 0
    assert capsys.readouterr().out.startswith(f"> {prompt}")


def test_control_characters_are_spelt_on_a_terminal_only(
    folder: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = "\x1b[31mred\r\x07\x9b\x7f\tå\n"
    arguments = ["sample", prompt, "--pretrained", folder, "--max-new-tokens=3"]
    assert run(arguments) == 0
    assert capsys.readouterr().out.startswith(f"> {prompt}")
    for rows in ("1", "2"):  # streamed and whole
        with monkeypatch.context() as patch:
            on_a_terminal(patch)
            assert run([*arguments, "--num-sequences", rows]) == 0
        out = capsys.readouterr().out
        assert out.startswith("> \\x1b[31mred\\x0d\\x07\\x9b\\x7f\tå\n")
        assert "\x1b" not in out


def test_a_single_sequence_streams_on_a_terminal(folder: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same text as without, in many writes instead of one."""
    arguments = ["sample", "ab", "--pretrained", folder, "--num-sequences=1"]
    assert run(arguments) == 0
    plain = capsys.readouterr().out
    writes: list[str] = []
    on_a_terminal(monkeypatch)
    monkeypatch.setattr(type(sys.stdout), "write", lambda self, text: writes.append(text))
    assert run(arguments) == 0
    assert "".join(writes) == plain
    assert len(writes) > 28


def test_ctrl_c_leaves_the_terminal_at_the_start_of_a_line(
    folder: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **kwargs: object) -> Iterator[list[Completion]]:
        yield [Completion("ab", "cd")]
        raise KeyboardInterrupt

    monkeypatch.setattr(Writer, "write", interrupted)
    for terminal in (False, True):
        with monkeypatch.context() as patch:
            if terminal:
                on_a_terminal(patch)
            assert run(["sample", "ab", "--pretrained", folder]) == 130
        captured = capsys.readouterr()
        assert captured.out == ("> abcd\n" if terminal else "") and "interrupted" in captured.err


def test_text_that_the_output_cannot_spell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert printable("naïve\x1b", terminal=False) == "na?ve\x1b"


def test_a_run_is_sampled_as_it_says(folder: str, capsys: Capture, tmp_path: Path) -> None:
    """The newest run is the default model; its prompt and length are the default ones, and flags go before them."""
    checkpoints = tmp_path / "runs" / "mine" / "checkpoints"
    checkpoints.mkdir(parents=True)
    Path(folder).rename(checkpoints / "step_000010")
    (checkpoints / "step_000010" / "training").mkdir()
    (checkpoints / "step_000010" / "training" / "state.json").write_text('{"step": 10}')
    (checkpoints / "latest").write_text("step_000010\n")
    (tmp_path / "runs" / "mine" / "config.yaml").write_text(
        "sampling: {prompt: Once, max_length: 12, num_sequences: 3}\n"
    )
    assert run(["sample"]) == 0
    captured = capsys.readouterr()
    assert re.fullmatch(r"(> Once[a-z]{8}\n){3}", captured.out)
    assert "runs/mine" in captured.err
    assert run(["sample", "ab", "--checkpoint", "runs/mine", "--num-sequences=1", "--max-new-tokens=2"]) == 0
    assert re.fullmatch(r"> ab[a-z]{2}\n", capsys.readouterr().out)


def test_a_folder_of_transformers(capsys: Capture, tmp_path: Path, gpt2_bpe: None) -> None:
    """Weights by save_pretrained and the tokenizer files of GPT-2: greedy text is theirs."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=50257, n_positions=64, n_embd=32, n_layer=2, n_head=2)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    for parameter in theirs.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    theirs.save_pretrained(tmp_path / "theirs")
    load_tokenizer("gpt2").save(tmp_path / "theirs")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")
    ids = tokenizer("The quick brown fox", return_tensors="pt").input_ids
    expected = theirs.generate(ids, do_sample=False, max_new_tokens=12, pad_token_id=50256)[0]
    arguments = ["--temperature=0", "--num-sequences=1", "--max-new-tokens=12", "--json"]
    assert run(["sample", "The quick brown fox", "--pretrained", str(tmp_path / "theirs"), *arguments]) == 0
    sequence = json.loads(capsys.readouterr().out)["sequences"][0]
    assert ids[0].tolist() + sequence["tokens"] == expected.tolist()
    assert sequence["text"] == tokenizer.decode(expected)


def test_odd_values_that_mean_something(folder: str, capsys: Capture) -> None:
    """A seed of any size, no temperature to speak of, more tokens than there are, bytes that are not UTF-8."""
    arguments = ["sample", "--pretrained", folder, "--num-sequences=1", "--max-new-tokens=4"]
    seeds = [str(2**64), str(2**64 + 1), str(2**200)]
    assert run([*arguments, "a", "--seed", seeds[0], "--top-k=999999", "--dtype=auto"]) == 0
    assert re.fullmatch(r"> a[a-z]{4}\n", capsys.readouterr().out)
    texts = []
    for temperature in ("0", "1e-45"):
        assert run([*arguments, "a", "--temperature", temperature, "--seed", seeds[2]]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert run([*arguments, "a\udcff<|endoftext|>", "--stop", "\udcff"]) == 0  # as Python gives such an argument
    assert re.fullmatch(r"> a\ufffd<\|endoftext\|>[a-z]{4}\n", capsys.readouterr().out)


def test_stop_strings(folder: str, capsys: Capture) -> None:
    arguments = ["sample", "a", "--pretrained", folder, "--max-new-tokens=20", "--top-k=0"]
    assert run(arguments) == 0
    whole = capsys.readouterr().out.splitlines()
    first, second = whole[0][8:10], whole[1][6]
    assert run([*arguments, "--stop", first, "--stop", second, "--stop", "\\n"]) == 0
    for line, text in zip(whole, capsys.readouterr().out.splitlines(), strict=True):
        assert text == "> a" + re.split(f"{first}|{second}", line[3:])[0]
    assert run([*arguments, "--stop", first, "--stop", "\\n", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["sampling"]["stop"] == [first, "\n"]
    one = result["sequences"][0]
    assert one["finish_reason"] == "stop" and bytes(one["tokens"]).decode() == one["text"][1:] + first


def test_a_prompt_from_a_file(folder: str, capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes("två\r\nrader\r\n".encode())
    arguments = ["sample", "--pretrained", folder, "--num-sequences=1", "--max-new-tokens=2", "--prompt-file"]
    assert run([*arguments, "p.txt"]) == 0
    assert re.fullmatch(r"> två\r\nrader[a-z]{2}\n", capsys.readouterr().out)
    (tmp_path / "p.txt").write_bytes(b"\xff")
    assert run([*arguments, "p.txt"]) == 1 and run([*arguments, "nothing.txt"]) == 1
    assert (
        "p.txt is not UTF-8: byte 0" in (errors := capsys.readouterr().err) and "nothing.txt cannot be read" in errors
    )


def test_past_the_context(folder: str, capsys: Capture) -> None:
    """Too long a prompt is an error or is cut; a text that outgrows the context is told of once."""
    arguments = ["sample", "x" * 70, "y" * 10, "--pretrained", folder, "--num-sequences=2", "--max-new-tokens=20"]
    assert run(arguments) == 1
    assert "70 tokens and the model's context is 64" in capsys.readouterr().err
    assert run([*arguments, "--truncate", "left"]) == 0
    captured = capsys.readouterr()
    assert re.fullmatch(r"(> x{44}[a-z]{20}\n){2}(> y{10}[a-z]{20}\n){2}", captured.out)
    assert "a prompt of 70 tokens is too long: the last 44 are read" in captured.err
    assert "past the context" not in captured.err
    assert run(["sample", "a", "b", "--pretrained", folder, "--num-sequences=1", "--max-new-tokens=70"]) == 0
    assert capsys.readouterr().err.count("past the context of 64 tokens") == 1


def test_explain(folder: str, capsys: Capture) -> None:
    arguments = ["sample", "a b", "", "--pretrained", folder, "--explain"]
    assert run([*arguments, "--top-k=2"]) == 0
    out = capsys.readouterr().out
    assert "tokens (3): 'a' ' ' 'b'\nentropy" in out and "\ntokens (1): <|endoftext|>\n" in out
    assert "2 of 257 tokens can be drawn" in out
    row = r" +1 +\d+ +\d+\.\d\d% +\d+\.\d\d% +\d+\.\d\d%  '[a-z]'"
    assert len(re.findall(f"^{row}$", out, flags=re.MULTILINE)) == 2
    assert run([*arguments, "--json", "--temperature=0"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["sampling"]["temperature"] == 0
    for one in result["explanations"]:
        assert one["possible"] == 1 and [each["drawn"] for each in one["candidates"]] == [1.0] + [0.0] * 19


def test_an_untrained_preset_says_so(capsys: Capture, gpt2_bpe: None) -> None:
    assert run(["sample", "--model", "gpt2-xxs", "--num-sequences=1", "--max-new-tokens=2"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("> Hello, I'm a language model,")
    assert "untrained" in captured.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--temperature", "-1"], 2, "--temperature"),
        (["--temperature", "nan"], 2, "--temperature"),
        (["--temperature", "inf"], 1, "temperature = inf"),
        (["--top-p", "0"], 1, "top_p = 0.0"),
        (["--top-p", "nan"], 2, "--top-p"),
        (["--min-p", "nan"], 2, "--min-p"),
        (["--min-p", "1.5"], 2, "--min-p"),
        (["--repetition-penalty", "0"], 1, "repetition_penalty = 0.0"),
        (["--repetition-penalty", "nan"], 2, "--repetition-penalty"),
        (["--repetition-penalty", "inf"], 1, "repetition_penalty = inf"),
        (["--stop", ""], 2, "--stop"),
        (["--top-p", "1.5"], 2, "--top-p"),
        (["--top-k", "-1"], 2, "--top-k"),
        (["--num-sequences", "0"], 2, "--num-sequences"),
        (["--max-length", "0"], 2, "--max-length"),
        (["--max-length", "5", "--max-new-tokens", "5"], 2, "one of them"),
        (["--max-length", "5"], 1, "max_length is 5"),
        (["--seed", "-1"], 2, "--seed"),
        (["--tempreature", "1"], 2, "--temperature"),
        (["y" * 65], 1, "65 tokens and the model's context is 64"),
        (["--checkpoint", "./model"], 1, "more than one model"),
        (["--device", "tpu0"], 1, "device"),
        (["--prompt-file", "p"], 2, "prompts come in one way"),
        (["--input", "p"], 2, "prompts come in one way"),
        (["--interactive"], 2, "prompts come in one way"),
        (["--output", "p"], 2, "--output is for --input"),
        (["--overwrite"], 2, "--overwrite is for --output"),
        (["--system", "p"], 2, "--system is for --chat"),
        (["--truncate", "right"], 2, "--truncate"),
        (["--dtype", "fp8"], 2, "--dtype"),
        (["--quantize", "int3"], 2, "--quantize"),
    ],
)
def test_misuse_is_one_clear_line(folder: str, capsys: Capture, arguments: list[str], code: int, message: str) -> None:
    assert run(["sample", "Hello, world", "--pretrained", folder, *arguments]) == code
    captured = capsys.readouterr()
    assert message in captured.err and "Traceback" not in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-i", "--input", "p"], "prompts come in one way"),
        (["--chat", "--explain"], "--explain is neither"),
        (["--input", "p", "--explain"], "--explain is neither"),
        (["-i", "--json"], "--json is neither"),
        (["--input", "p", "--json"], "--json is neither"),
        (["--chat", "--num-sequences=2"], "an answer is one sequence"),
        (["--chat", "--max-length=20"], "is --max-new-tokens"),
        (["-i", "--system=S"], "--system is for --chat"),
    ],
)
def test_what_does_not_go_together(capsys: Capture, arguments: list[str], message: str) -> None:
    assert run(["sample", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_model_that_is_not_there(folder: str, capsys: Capture) -> None:
    for name in ("./nowhere", "gpt2-xs"):
        assert run(["sample", "x", "--pretrained", name]) == 1
        assert name in capsys.readouterr().err
