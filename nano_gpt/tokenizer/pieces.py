"""A long text in pieces whose ids, put together, are the ids of the whole, for every byte-level BPE.

GPT-2's pattern (`GPT2_WORDS` in bpe.py) cuts text into words, and words do not see each other: a text may be cut
wherever a word is sure to end, whatever stands before and behind. There are two kinds of such places.

Before the last whitespace character of a run: the rest of the run is a word of its own (`\\s+(?!\\S)` in the whole,
`\\s++$` at the end of a piece), and so is what begins with that character. A run is hence never followed by text in one
piece, unless it began and ended within the first `length` characters; on a run of a million tiktoken fails there.

Between a letter, a digit and a sign: every word but a contraction holds characters of one of the three kinds (a space
in front apart), as many as there are, so that it ends where the kind changes. Contractions ('s, 'll) begin with an
apostrophe and go on with letters, so only behind an apostrophe a change of kind proves nothing. This is what cuts
Chinese and base64. Unicode moves on and tiktoken with it, so only characters count here whose kind has never changed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator

from nano_gpt.runtime.logs import logger

PIECE_LENGTH = 65_536  # characters
LONGEST_PIECE = 2**21  # characters; tiktoken takes 40 bytes and more per byte of a word

# \s of tiktoken's engine; Python's own also has U+001C .. U+001F.
WHITESPACE_CHARACTERS = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))  # spaces of many widths
)
WHITESPACE = re.escape(WHITESPACE_CHARACTERS)
# Latin, hiragana, katakana, Chinese characters, Korean syllables
LETTERS = "A-Za-z\u3041-\u3094\u30a1-\u30fa\u4e00-\u9fa5\uac00-\ud7a3"
DIGITS = "0-9\uff10-\uff19"
# ASCII without the apostrophe, curly quotes and the ellipsis, the signs of Chinese and Japanese print
SIGNS = "!-&(-/:-@[-`{-~\u2018-\u201f\u2026\u3001-\u3003\u3008-\u3011\uff01-\uff0f\uff1a-\uff20"

_CUT = re.compile(
    f"[{WHITESPACE}](?=[^{WHITESPACE}])"
    f"|(?<=[{LETTERS}])(?=[{DIGITS}{SIGNS}'])"
    f"|(?<=[{DIGITS}])(?=[{LETTERS}{SIGNS}'])"
    f"|(?<=[{SIGNS}])(?=[{LETTERS}{DIGITS}])"
)


def pieces_of(text: str, length: int = PIECE_LENGTH) -> Iterator[str]:
    """Cut `text` as `pieces_of_blocks` does."""
    return iter((text,)) if len(text) <= length else pieces_of_blocks((text,), length)


def pieces_of_blocks(blocks: Iterable[str], length: int = PIECE_LENGTH, longest: int = LONGEST_PIECE) -> Iterator[str]:
    """Cut a text, given in blocks, into pieces of `length` characters and whatever it takes to a word's end.

    The pieces depend on the text alone, not on the blocks, and there is at least one. Where no word is known to end
    within `longest` characters, there is a cut nevertheless: ids may then differ from those of the whole, which are out
    of reach, and a log line says so.
    """
    text, start = "", 0  # all before `start` has been yielded
    searched = length  # a piece that begins at `start` is known not to end before start + searched
    for block in blocks:
        text, start = text[start:] + block, 0
        while len(text) - start > searched:
            limit = start + longest
            cut = _CUT.search(text, start + searched, limit + 1)
            if cut is not None:
                end = cut.start()
            elif len(text) > limit:
                _tell_of_a_cut_word()
                end = limit
            else:  # the last character may be whitespace: what follows it decides
                searched = max(length, len(text) - start - 1)
                break
            yield text[start:end]
            start, searched = end, length
    yield text[start:]


@functools.cache  # once
def _tell_of_a_cut_word() -> None:
    logger.warning(
        f"text without a space or a sign for {LONGEST_PIECE:,} characters: it is cut there, also within a word"
    )
