"""Many texts -> ids at once: their words are looked up in a table, a block of texts at a time.

tiktoken takes one word after the other. But texts repeat their words, and where words end can be seen by comparing
neighbouring bytes: here some fifty numpy operations find and look up all words of a block, and tiktoken gets only those
that the table does not know yet. On English text that is three to five times as fast as tiktoken alone; twice on a
dictionary, of which one word in 25 is new; Chinese, which has no spaces, is as slow as before.

Words are those of GPT-2's pattern (`GPT2_WORDS` in bpe.py). What is a letter beyond ASCII, tiktoken alone decides. So
wherever there is anything beyond ASCII, an entry of the table is not a word but a stretch of text between two places
where words are sure to begin: before the last white space of a run that something follows (see pieces.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import tiktoken

from nano_gpt.tokenizer.base import END_OF_TEXT, EncodedDocuments, Ids, well_formed
from nano_gpt.tokenizer.pieces import WHITESPACE_CHARACTERS, pieces_of

Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Keys = npt.NDArray[np.uint64]

LONGEST = 15  # bytes of a word in the table: with their number they are 128 bits; longer words are in a dictionary
MOST_BYTES = 2**25  # for learnt words. Then all are forgotten, so that memory does not grow with the corpus.

# Two bytes that UTF-8 does not have: one of them stands before every text, or piece of a long one, and behind the last.
_DOCUMENT, _CONTINUED = 0xFF, 0xFE
_PADDING = bytes(16)  # 16 bytes are read from every word's first one on

_LETTER, _DIGIT, _SIGN, _SPACE, _BEYOND, _MARK = range(6)


def _kind(byte: int) -> int:
    if byte >= 0x80:
        return _MARK if byte in (_DOCUMENT, _CONTINUED) else _BEYOND
    char = chr(byte)
    if char in WHITESPACE_CHARACTERS:
        return _SPACE
    return _LETTER if char.isalpha() else _DIGIT if char.isdigit() else _SIGN


_KINDS = bytes(_kind(byte) for byte in range(256))
# White space beyond ASCII: as its first three bytes in one number (U+0085 and U+00A0 have two), and its first byte.
_FAR_SPACES = [char for char in WHITESPACE_CHARACTERS if not char.isascii()]
_FAR_SPACE_CODES = np.array([int.from_bytes(char.encode().ljust(3, b"\0"), "big") for char in _FAR_SPACES])
_FAR_SPACE_LEADS = np.isin(np.arange(256), _FAR_SPACE_CODES >> 16)

# Of the 16 bytes from a word's first one on, in two halves: those that are its own, by its length.
_LOW_MASKS = np.array([256 ** min(length, 8) - 1 for length in range(LONGEST + 2)], np.uint64)
_HIGH_MASKS = np.array([256 ** min(max(length - 8, 0), 7) - 1 for length in range(LONGEST + 2)], np.uint64)
_LENGTHS = np.arange(LONGEST + 2, dtype=np.uint64) << np.uint64(56)
_MULTIPLIERS = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)  # odd, without a pattern in their bits
_SLOTS_LOG2 = 18
_ENTRY_BYTES = 150  # of a dictionary, about, beside the word
# A word's place: where its ids begin, and how many they are.
_COUNT_BITS = 32
_COUNT_MASK = 2**_COUNT_BITS - 1

# GPT-2's pattern for what is one word, or several without white space of more than one character between them: there
# is nothing to look ahead at, and tiktoken is nearly twice as fast. Stretches with white space beyond ASCII are encoded
# on their own, and so are those with the text that separates words here.
_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+"
_SEPARATOR = END_OF_TEXT
_ON_ITS_OWN = re.compile("|".join([re.escape(_SEPARATOR), *_FAR_SPACES]).encode())


def word_bounds(content: bytes) -> tuple[Integers, Integers]:
    """First bytes and ends of the words of texts that `_joined` has joined; every mark but the last is a word too."""
    size = len(content) - len(_PADDING)
    # The padding stays in view: what is looked at behind a byte is always there.
    data = np.frombuffer(content, np.uint8)
    kind = np.frombuffer(content.translate(_KINDS), np.uint8)
    mark, space = kind == _MARK, kind == _SPACE
    begins = mark.copy()  # marks follow each other where a text is empty
    begins[1:] |= kind[1:] != kind[:-1]
    before_word = space[:-1] & ~(space[1:] | mark[1:])
    begins[:-1] |= before_word
    begins[1:] &= ~(before_word & (data[:-1] == ord(" ")))  # a blank belongs to the word behind it
    _end_contractions(data, begins)
    starts: Integers = np.flatnonzero(begins[:size])
    if (kind == _BEYOND).any():
        starts = _without_doubtful(starts, data, kind, before_word)
    return starts[:-1], starts[1:]


def _end_contractions(data: npt.NDArray[np.uint8], begins: Flags) -> None:
    """Where a word begins with an apostrophe: 's, 'd, 'm, 't, 'll, 've and 're are words, whatever follows them."""
    quotes = np.flatnonzero(begins & (data == ord("'")))
    first, second = data[quotes + 1], data[quotes + 2]
    short = quotes[np.isin(first, list(b"sdmt"))]
    long = quotes[((first == ord("l")) & (second == ord("l"))) | (np.isin(first, list(b"vr")) & (second == ord("e")))]
    for found, length in (short, 2), (long, 3):
        begins[found + 1] = False
        begins[found + length] = True


def _without_doubtful(
    starts: Integers, data: npt.NDArray[np.uint8], kind: npt.NDArray[np.uint8], before_word: Flags
) -> Integers:
    """`starts` without those that something beyond ASCII between two sure ones makes doubtful."""
    leads = np.flatnonzero(_FAR_SPACE_LEADS[data])
    first, second, third = (data[leads + place].astype(np.int64) for place in range(3))
    codes = first << 16 | second << 8 | np.where(first == 0xC2, 0, third)
    sure = np.append(before_word, False)
    sure[leads[np.isin(codes, _FAR_SPACE_CODES)] - 1] = False  # the run of white space goes on
    mark = kind == _MARK
    sure |= mark
    sure[1:] |= mark[:-1]
    is_sure = sure[starts]
    stretch = np.cumsum(is_sure)
    beyond = (kind[starts] == _BEYOND) | (kind[starts + 1] == _BEYOND)  # a word's second byte, if the first is a blank
    doubtful = np.zeros(stretch[-1] + 1, np.bool_)
    doubtful[stretch[beyond]] = True
    kept: Integers = starts[is_sure | ~doubtful[stretch]]
    return kept


class WordEncoder:
    """Texts -> ids by way of the words that it has learnt. For one thread at a time."""

    _ids: Ids
    """Those of all words that it knows; the first `_used` count."""
    _used: int

    def __init__(
        self, ranks: Mapping[bytes, int], eot_id: int, encode: Callable[[str], Ids], most_bytes: int = MOST_BYTES
    ) -> None:
        """`encode` gives the ids of any text, by these `ranks`."""
        self._encoding = tiktoken.Encoding(
            "words", pat_str=_WORDS, mergeable_ranks=dict(ranks), special_tokens={END_OF_TEXT: eot_id}
        )
        # A word that is a token has its id. What is beyond ASCII may be several words, though it is spelt like a token.
        self._tokens = [(token, id_) for token, id_ in ranks.items() if token.isascii()]
        self._eot_id = eot_id
        self._encode = encode
        self._most_bytes = most_bytes
        self._forget()

    def __call__(self, texts: Sequence[str]) -> EncodedDocuments:
        if self._bytes > self._most_bytes:
            self._forget()
        content = _joined(texts)
        starts, ends = word_bounds(content)
        keys = _keys(content, starts, ends)
        places, unknown = self._table.find(keys)
        if len(unknown):
            bounds = zip(starts[unknown].tolist(), ends[unknown].tolist(), strict=True)
            places[unknown] = self._look_up([content[start:end] for start, end in bounds], keys[:, unknown])
        first, count = places >> _COUNT_BITS, places & _COUNT_MASK
        behind = np.cumsum(count)  # ids up to each word's last
        total = int(behind[-1]) if len(behind) else 0
        ids = self._ids[np.repeat(first - (behind - count), count) + np.arange(total)]
        opens = np.frombuffer(content, np.uint8)[starts] == _DOCUMENT
        return EncodedDocuments(ids, np.diff(behind[opens] - 1, append=total))

    def _look_up(self, words: list[bytes], keys: Keys) -> Integers:
        """The places of words that the table does not have. Learns those that are new."""
        number_of = {word: number for number, word in enumerate(words)}
        new = [word for word in number_of if word not in self._places]
        if new:
            self._learn(new)
        places = np.array([self._places[word] for word in words], np.int64)
        numbers = [number_of[word] for word in new]
        self._table.add(keys[:, numbers], places[numbers])
        return places

    def _learn(self, words: list[bytes]) -> None:
        together = [word for word in words if word.isascii() or not _ON_ITS_OWN.search(word)]
        if together:  # one call for all is three times as fast as one for each
            joined = _SEPARATOR.join([word.decode() for word in together])
            ids = self._encoding.encode_to_numpy(joined, allowed_special="all")
            ends = np.append(np.flatnonzero(ids == self._eot_id), len(ids))
            self._keep(together, ids, np.append(0, ends[:-1] + 1), ends)
        for word in words:
            if word not in self._places:
                ids = self._encode(word.decode())
                self._keep([word], ids, np.zeros(1, np.int64), np.array([len(ids)]))

    def _keep(self, words: list[bytes], ids: Ids, starts: Integers, ends: Integers) -> None:
        """Remember that the ids of each word are ids[start:end]."""
        first, self._used = self._used, self._used + len(ids)
        if self._used > len(self._ids):
            self._ids = np.append(self._ids, np.empty(self._used, np.uint32))
        self._ids[first : self._used] = ids
        self._places.update(zip(words, ((first + starts) << _COUNT_BITS | (ends - starts)).tolist(), strict=True))
        self._bytes += 4 * len(ids) + sum(map(len, words)) + _ENTRY_BYTES * len(words)

    def _forget(self) -> None:
        """Know the marks and the tokens, nothing else."""
        tokens, ids = zip(*self._tokens, strict=True)
        ends = np.cumsum([len(token) for token in tokens])
        keys = _keys(b"".join(tokens) + _PADDING, np.append(0, ends[:-1]), ends)
        self._table = _WordTable()
        # Where two words want a slot the last one stays: let it be the more frequent.
        self._table.add(keys[:, ::-1], np.arange(len(ids))[::-1] << _COUNT_BITS | 1)
        self._ids = np.array([*ids, self._eot_id], np.uint32)
        self._used, self._bytes = len(self._ids), 0
        self._places = {bytes([_DOCUMENT]): len(ids) << _COUNT_BITS | 1, bytes([_CONTINUED]): 0}


def _joined(texts: Sequence[str]) -> bytes:
    """UTF-8 of all texts, each behind a mark."""
    parts: list[bytes] = []
    for text in texts:
        mark = _DOCUMENT
        for piece in pieces_of(well_formed(text)):
            parts += bytes([mark]), piece.encode()
            mark = _CONTINUED
    return b"".join([*parts, bytes([_DOCUMENT]), _PADDING])


def _keys(content: bytes, starts: Integers, ends: Integers) -> Keys:
    """Two numbers that tell a word from all others of at most LONGEST bytes: its bytes, and their number on top. (2, n)

    Words that are longer have keys that no other word has which is not longer too.
    """
    length = np.minimum(ends - starts, LONGEST + 1)
    places = len(content) - len(_PADDING)
    low, high = (np.ndarray((places,), "<u8", content, offset, (1,)) for offset in (0, 8))  # 8 bytes from every place
    return np.stack([low[starts] & _LOW_MASKS[length], (high[starts] & _HIGH_MASKS[length]) | _LENGTHS[length]])


class _WordTable:
    """Keys -> places, for arrays of them at once. Every key has two slots; where others have both, it is not kept."""

    def __init__(self) -> None:
        self._keys = np.zeros((2, 2**_SLOTS_LOG2), np.uint64)  # no word has length 0
        self._places = np.zeros(2**_SLOTS_LOG2, np.int64)

    def find(self, keys: Keys) -> tuple[Integers, Integers]:
        """The places of all keys, and which of them it does not have."""
        slots, others = _slots(keys)
        missing = np.flatnonzero(~self._holds(slots, keys))
        slots[missing] = others[missing]
        unknown = missing[~self._holds(slots[missing], keys[:, missing])]
        return self._places[slots], unknown

    def add(self, keys: Keys, places: Integers) -> None:
        """Keep those that find a slot and are no longer than LONGEST bytes."""
        fits = np.flatnonzero(keys[1] >> np.uint64(56) <= LONGEST)
        for turn in range(2):
            slot = _slots(keys[:, fits])[turn]
            free = self._keys[1][slot] == 0
            self._keys[:, slot[free]] = keys[:, fits[free]]
            self._places[slot[free]] = places[fits[free]]
            fits = fits[~self._holds(slot, keys[:, fits])]

    def _holds(self, slots: Integers, keys: Keys) -> Flags:
        held: Flags = (self._keys[0][slots] == keys[0]) & (self._keys[1][slots] == keys[1])
        return held


def _slots(keys: Keys) -> tuple[Integers, Integers]:
    """Two slots for each key, by multiplicative hashing (Knuth, The Art of Computer Programming 3, 6.4)."""
    mixed = (keys[0] ^ (keys[1] * _MULTIPLIERS[1])) * _MULTIPLIERS[0]
    mixed = (mixed ^ (mixed >> np.uint64(29))) * _MULTIPLIERS[1]
    shift = np.uint64(64 - _SLOTS_LOG2)
    other = (mixed * _MULTIPLIERS[0]) >> shift
    return (mixed >> shift).astype(np.int64), other.astype(np.int64)
