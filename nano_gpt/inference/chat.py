"""A conversation as a text that a plain language model can go on with:

    System: Answer in one sentence.

    User: Who are you?

    Assistant: A model of language.

    User: And where?

    Assistant:

The model writes the next answer, and is stopped when it begins to speak for the user. There is no blank behind the last
colon, since the tokens of GPT-2 begin with theirs. A model that was not trained on such text follows the form, not the
question.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nano_gpt.config.inference import SamplingConfig
from nano_gpt.inference.writing import Prompt, Writer

STOPS = ("\n\nUser:", "\nUser:", "User:")  # line ends before it are no part of an answer


@dataclass
class Conversation:
    """What was said so far."""

    system: str | None = None
    """What stands before all turns, and is never cut off."""
    turns: list[tuple[str, str]] = field(default_factory=list)
    """Questions and answers. The oldest are dropped when the context has no room for them."""

    def ask(self, question: str, writer: Writer, config: SamplingConfig, max_new_tokens: int) -> tuple[Prompt, int]:
        """The text up to the answer, and how many of the oldest turns were dropped for it.

        Raises ConfigError for a question that has no room even alone.
        """
        room = writer.room(max_new_tokens)
        sizes = (len(writer.tokenizer.encode(self._text(question, first))) for first in range(len(self.turns)))
        dropped = next((first for first, size in enumerate(sizes) if size <= room), len(self.turns))
        prompt = writer.fit(self._text(question, dropped), config, max_new_tokens)
        del self.turns[:dropped]
        return prompt, dropped

    def _text(self, question: str, first: int) -> str:
        parts = [] if self.system is None else [f"System: {self.system}"]
        for user, assistant in self.turns[first:]:
            parts += [f"User: {user}", f"Assistant: {assistant}"]
        return "\n\n".join([*parts, f"User: {question}", "Assistant:"])
