"""How others turn a corpus into token files, each as a command of its own:

    python script/benchmarks/peers.py imap corpus.jsonl OUT --procs 2

The job is the same for all: every document's GPT-2 ids and one `<|endoftext|>`, as 16-bit numbers in files of OUT, from
a .jsonl file with a field `text`. Written here from the descriptions of these ways, with the choices that are kindest
to each: the encoding is loaded before processes are forked, lines are parsed by `json`, arrays and not lists travel.

    imap        the predecessor and build-nanogpt: a pool of processes, a document at a time through `Pool.imap`
    datasets    nanoGPT: `datasets.map` over the documents, its result copied into one memory map
    tokenizers  Hugging Face's own tokenizer, batches of documents on threads

And for the limit, tiktoken alone: documents in memory, ids thrown away.

    python script/benchmarks/peers.py tiktoken corpus.jsonl OUT --core 0 --share 0/1

prints its rate instead of writing anything: seconds, and bytes of text.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import tiktoken

TOKENS_PER_SHARD = 100_000_000
CHUNK_SIZE = 16  # documents that `imap` sends at a time, in the predecessor
BATCH_SIZE = 1024  # documents of a batch for Hugging Face's tokenizer
MEMMAP_BATCHES = 1024  # pieces in which nanoGPT copies into its memory map

Ids = npt.NDArray[np.uint16]


@functools.cache
def gpt2() -> tiktoken.Encoding:
    import tiktoken

    return tiktoken.get_encoding("gpt2")


def read_texts(corpus: Path) -> Iterator[str]:
    with corpus.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)["text"]


# --- The predecessor's


def with_imap(corpus: Path, out: Path, procs: int) -> None:
    gpt2()
    with multiprocessing.Pool(procs) as pool:
        write_shards(pool.imap(_ids_of_document, read_texts(corpus), chunksize=CHUNK_SIZE), out)


def _ids_of_document(text: str) -> Ids:
    ids = [gpt2().eot_token]
    ids.extend(gpt2().encode_ordinary(text))
    return np.array(ids, np.uint16)


# --- nanoGPT's


def with_datasets(corpus: Path, out: Path, procs: int) -> None:
    from datasets import load_dataset

    texts = load_dataset("json", data_files=str(corpus), split="train", cache_dir=str(out / "cache"))
    documents = texts.map(_ids_of_row, remove_columns=["text"], num_proc=procs)
    tokens = int(np.sum(documents["length"], dtype=np.uint64))
    target = np.memmap(out / "train.bin", np.uint16, mode="w+", shape=(tokens,))
    batches = min(MEMMAP_BATCHES, len(documents))
    start = 0
    for index in range(batches):
        batch = documents.shard(batches, index, contiguous=True).with_format("numpy")
        ids = np.concatenate(batch["ids"][:])
        target[start : start + len(ids)] = ids
        start += len(ids)
    target.flush()


def _ids_of_row(row: dict[str, str]) -> dict[str, Any]:
    ids = gpt2().encode_ordinary(row["text"])
    ids.append(gpt2().eot_token)
    return {"ids": ids, "length": len(ids)}


# --- Hugging Face's tokenizers


def with_tokenizers(corpus: Path, out: Path, procs: int) -> None:
    os.environ.update(RAYON_NUM_THREADS=str(procs), TOKENIZERS_PARALLELISM="true")
    import tokenizers

    from nano_gpt.tokenizer import load_tokenizer

    load_tokenizer("gpt2").save(out / "tokenizer")  # the same vocabulary and merges, in their format
    tokenizer = tokenizers.Tokenizer.from_file(str(out / "tokenizer" / "tokenizer.json"))
    tokenizer.encode_special_tokens = True  # `<|endoftext|>` in a document is ordinary text
    eot = tokenizer.token_to_id("<|endoftext|>")
    write_shards(
        (
            np.array([eot, *encoding.ids], np.uint16)
            for texts in _batches(read_texts(corpus), BATCH_SIZE)
            # "fast": without the offsets of the tokens in the text, which nobody needs here
            for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        ),
        out,
    )


def _batches(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


# --- What they share


def write_shards(documents: Iterable[Ids], out: Path) -> None:
    """Fill a buffer and save it whenever it is full."""
    shard = np.empty(TOKENS_PER_SHARD, np.uint16)
    filled = number = 0
    for ids in documents:
        while len(ids) > TOKENS_PER_SHARD - filled:
            room = TOKENS_PER_SHARD - filled
            shard[filled:] = ids[:room]
            np.save(out / f"train_{number:06d}.npy", shard)
            ids, filled, number = ids[room:], 0, number + 1
        shard[filled : filled + len(ids)] = ids
        filled += len(ids)
    if filled:
        np.save(out / f"train_{number:06d}.npy", shard[:filled])


# --- The limit


def tiktoken_rate(corpus: Path, core: int, share: str) -> dict[str, float]:
    """Seconds and bytes of text for every n-th document ("i/n"), one after the other on one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    index, of = map(int, share.split("/"))
    texts = [text for number, text in enumerate(read_texts(corpus)) if number % of == index]
    encoding = gpt2()
    encoding.encode_ordinary(texts[0])
    start = time.perf_counter()
    for text in texts:
        encoding.encode_ordinary(text)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "bytes": sum(len(text.encode()) for text in texts)}


WAYS = {"imap": with_imap, "datasets": with_datasets, "tokenizers": with_tokenizers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=[*WAYS, "tiktoken"])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--procs", type=int, default=2)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--share", default="0/1")
    asked = parser.parse_args()
    if asked.way == "tiktoken":
        print(json.dumps(tiktoken_rate(asked.corpus, asked.core, asked.share)))
    else:
        asked.out.mkdir(parents=True)
        WAYS[asked.way](asked.corpus, asked.out, asked.procs)


if __name__ == "__main__":
    main()
