"""Prompts from a file and lines of JSON out: what is read, what goes on where it stopped, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nano_gpt.config.inference import SamplingConfig
from nano_gpt.config.model import GPTConfig
from nano_gpt.errors import ConfigError, DataError
from nano_gpt.inference.prompt_file import Job, Task, read_tasks
from nano_gpt.inference.writing import Writer
from nano_gpt.model.gpt import GPT
from nano_gpt.model.packed import pack
from nano_gpt.tokenizer import load_tokenizer

BYTES = load_tokenizer("byte")


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_what_is_read(tmp_path: Path) -> None:
    lines = write(tmp_path / "a.jsonl", '\ufeff{"prompt": "one\\n", "id": 7}\r\n\n{"prompt": "", "tag": [1]}')
    assert [task.fields for task in read_tasks(lines)] == [{"prompt": "one\n", "id": 7}, {"prompt": "", "tag": [1]}]
    assert read_tasks(lines)[1].where == f"{lines} line 3"
    text = write(tmp_path / "a.txt", "one \r\n\n \ntwo\u2028three\x0c\n")
    assert [task.fields for task in read_tasks(text)] == [{"prompt": "one "}, {"prompt": "two\u2028three\x0c"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no prompts"),
        ('{"prompt": "a"}\n{"prompt": 1}', "line 2 is no object with a text as"),
        ('["prompt"]', "line 1 is no object"),
        ('{"prompt": "a"', "line 1 is not JSON"),
        ('{"prompt": "a", "x": NaN}', "line 1 is not JSON"),
        ('{"prompt": "a", "text": "b"}', 'line 1 has a field "text"'),
        (b'{"prompt": "\xff"}', "not UTF-8: byte 12"),
    ],
)
def test_what_is_not(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_tasks(write(tmp_path / "a.jsonl", content))
    with pytest.raises(DataError, match="cannot be read"):
        read_tasks(tmp_path / "nothing.jsonl")


@pytest.fixture(scope="module")
def writer() -> Writer:
    torch.manual_seed(0)
    config = GPTConfig(vocab_size=BYTES.vocab_size, n_positions=32, n_embd=16, n_layer=1, n_head=2)
    return Writer(pack(GPT(config)), BYTES)


def make_job(first_id: int = 0, **changed: Any) -> Job:
    prompts = ["a", "bb", "", "\ud800"]
    tasks = [Task("here", {"prompt": prompt, "id": number}) for number, prompt in enumerate(prompts, start=first_id)]
    config = SamplingConfig(**{"num_sequences": 2, "top_k": None, **changed})
    return Job(tasks, config, {"model": "a test", "sampling": {"seed": config.seed, "stop": config.stop}})


def lines_of(job: Job, writer: Writer, done: int = 0, batch_size: int = 32) -> list[str]:
    prompts = [writer.fit(task.prompt, job.config, 6) for task in job.tasks]
    return list(job.lines(writer, prompts, done=done, batch_size=batch_size))


def test_a_line_for_every_sequence_whatever_the_batch_and_where_it_began(writer: Writer) -> None:
    job = make_job()
    lines = lines_of(job, writer)
    rows = [json.loads(line) for line in lines]
    assert [(row["id"], row["index"]) for row in rows] == [(id_, index) for id_ in range(4) for index in range(2)]
    for row in rows:
        assert row["prompt"] == job.tasks[row["id"]].prompt and row["model"] == "a test"
        assert len(row["tokens"]) == len(row["logprobs"]) == 6 and row["finish_reason"] == "length"
        assert row["text"].endswith(BYTES.decode(row["tokens"]))
    for batch_size in (1, 3, 5, 100):
        for done in (0, 1, 2, 5, 8):
            assert lines_of(job, writer, done, batch_size) == lines[done:]


def test_a_job_goes_on_behind_its_own_lines_at_every_byte(writer: Writer, tmp_path: Path) -> None:
    job = make_job(stop=("x",))
    lines = [line + "\n" for line in lines_of(job, writer)]
    whole = "".join(lines).encode()
    output = tmp_path / "out.jsonl"
    assert job.count_done(output) == 0
    for size in range(0, len(whole) + 1, 7):
        done = job.count_done(write(output, whole[:size]))
        assert output.read_bytes() == "".join(lines[:done]).encode()
        assert len(output.read_bytes()) <= size < len("".join(lines[: done + 1])) or done == 8
    assert job.count_done(write(output, whole)) == 8


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (make_job(first_id=5), "line 1 has id 5, which now is 0"),
        (make_job(seed=1), "line 1 has sampling.seed 1, which now is 42"),
        (make_job(stop=["x"]), r'line 1 has sampling.stop \["x"\], which now is \[\]'),
        (Job(make_job().tasks[1:], make_job().config, make_job().origin), 'line 1 has prompt "bb", which now is "a"'),
        (Job(make_job().tasks, make_job().config, {**make_job().origin, "model": "b"}), 'has model "b"'),
        (
            Job([*make_job().tasks, Task("", {"prompt": "e"})], make_job().config, make_job().origin),
            "line 9 is one too",
        ),
    ],
)
def test_lines_of_another_job_are_left_alone(writer: Writer, tmp_path: Path, other: Job, message: str) -> None:
    content = "".join(line + "\n" for line in lines_of(other, writer)) + '{"cut'
    output = write(tmp_path / "out.jsonl", content)
    with pytest.raises(ConfigError, match=message):
        make_job().count_done(output)
    assert output.read_text() == content
    for strange in ("hello\n", "[]\n", '{"sampling": 1}\n', '{"prompt": "a"}\n', "\n"):
        with pytest.raises(ConfigError, match="line 1 is something else"):
            make_job().count_done(write(output, strange))
