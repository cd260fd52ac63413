"""What `nano-gpt sample` does with a model, one function for each: texts, the next token, a file of prompts, talk."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nano_gpt.cli.terminal import show, tell_cut, tell_sliding, write
from nano_gpt.config.inference import SamplingConfig
from nano_gpt.errors import ConfigError, DataError, Interrupted
from nano_gpt.runtime.logs import logger
from nano_gpt.runtime.progress import ProgressDisplay

if TYPE_CHECKING:
    from nano_gpt.inference.explain import Explanation
    from nano_gpt.inference.prompt_file import Task
    from nano_gpt.inference.writing import Prompt, Writer


@dataclass(frozen=True)
class Session:
    """A model, and how it is to write."""

    writer: Writer
    config: SamplingConfig
    max_new_tokens: int | None
    truncate: bool
    origin: str
    """The model, in words."""

    @property
    def provenance(self) -> dict[str, Any]:
        """The model and the settings, for JSON."""
        settings = self.config.model_dump(exclude={"prompt", "max_length"} if self.max_new_tokens else {"prompt"})
        if self.max_new_tokens:
            settings["max_new_tokens"] = self.max_new_tokens
        return {"model": self.origin, "sampling": settings}

    def fit(self, texts: Sequence[str], places: Sequence[str] = ()) -> list[Prompt]:
        """All of them, so that one that does not fit is told, with its place, before any is continued."""
        prompts = []
        for number, text in enumerate(texts):
            try:
                prompts.append(self.writer.fit(text, self.config, self.max_new_tokens, truncate=self.truncate))
            except (ConfigError, DataError) as error:
                where = f"{places[number]}: " if places else ""
                raise type(error)(f"{where}{error.message}", error.hint) from None
        tell_cut(prompts)
        tell_sliding(self.writer, prompts)
        return prompts


def tell(session: Session, texts: Sequence[str], *, as_json: bool) -> None:
    """Continue `texts`: `> ...` for every sequence, on a terminal as it is written, or one object with all of them."""
    from nano_gpt.inference.prompt_file import written

    prompts = session.fit(texts)
    if not as_json:
        show(session.writer.write(prompts, session.config), live=sys.stdout.isatty())
        return
    started = time.perf_counter()
    completions = session.writer.complete(prompts, session.config, logprobs=True)
    seconds = time.perf_counter() - started
    drawn = sum(len(completion.tokens) for completion in completions)
    _echo_json(
        **session.provenance,
        tokens_per_second=round(drawn / seconds, 1),
        sequences=[{"prompt": completion.prompt, **written(completion)} for completion in completions],
    )


def tell_next(session: Session, texts: Sequence[str], *, as_json: bool) -> None:
    """What could follow each of `texts`: a table, or one object with all of them."""
    from nano_gpt.inference.explain import explain

    writer, config = session.writer, session.config
    prompts = [writer.fit(text, config, 1, truncate=session.truncate) for text in texts]
    tell_cut(prompts)
    explanations = [explain(writer, prompt, config) for prompt in prompts]
    if as_json:
        _echo_json(**session.provenance, explanations=[asdict(explanation) for explanation in explanations])
    else:
        write("\n".join(_table(explanation) for explanation in explanations))


def _table(explanation: Explanation) -> str:
    rows = [
        f"{each.rank:4} {each.id:6} {each.probability:11.2%} {each.cumulative:11.2%} {each.drawn:9.2%}  {each.token}\n"
        for each in explanation.candidates
    ]
    return (
        f"tokens ({len(explanation.prompt)}): {' '.join(explanation.prompt)}\n"
        f"entropy {explanation.entropy:.2f} bits; {explanation.possible:,} of {explanation.vocab_size:,} tokens can be "
        "drawn with these settings\n"
        f"rank     id probability  cumulative     drawn  token\n{''.join(rows)}"
    )


def work_off(session: Session, tasks: Sequence[Task], output: Path | None, *, overwrite: bool, batch_size: int) -> None:
    """Continue every prompt of a file: lines of JSON to stdout or, behind those that are there already, to `output`."""
    from nano_gpt.inference.prompt_file import Job

    job = Job(tasks, session.config, session.provenance)
    prompts = session.fit([task.prompt for task in tasks], [task.where for task in tasks])
    if output is None:
        for line in job.lines(session.writer, prompts, done=0, batch_size=batch_size):
            write(line + "\n")
        return
    done = before = 0 if overwrite else job.count_done(output)
    if before:
        logger.info(f"{output}: {before:,} of {len(job):,} lines are there")
    try:
        with output.open("w" if overwrite else "a", encoding="utf-8") as file, ProgressDisplay("sample") as progress:
            for line in job.lines(session.writer, prompts, done=before, batch_size=batch_size):
                file.write(line + "\n")
                file.flush()
                done += 1
                progress.tell(f"{done:,} of {len(job):,} sequences", done, len(job))
    except KeyboardInterrupt:
        hint = f"the same command{' without --overwrite' if overwrite else ''} goes on"
        raise Interrupted(f"interrupted: {output} has {done:,} of {len(job):,} lines", hint, signal.SIGINT) from None
    logger.info(f"{output}: {len(job):,} lines")


def talk(session: Session, *, chat: bool, system: str | None) -> None:
    """Answer what is typed."""
    from nano_gpt.cli.repl import Repl, ReplSettings
    from nano_gpt.inference.chat import Conversation

    length = {} if session.max_new_tokens is None else {"max_new_tokens": session.max_new_tokens}
    settings = ReplSettings(**{**session.config.model_dump(), "num_sequences": 1, **length})
    conversation = Conversation(system) if chat else None
    if sys.stdin.isatty():
        logger.info(f"{session.origin}: /help tells what can be typed, Ctrl-D leaves")
    Repl(session.writer, settings, conversation, truncate=session.truncate).run()


def _echo_json(**values: Any) -> None:
    write(json.dumps(values, allow_nan=False) + "\n")
