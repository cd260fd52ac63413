"""A prepared set in words and figures: what `nano-gpt inspect` prints of it, for people and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nano_gpt.data.inspection import Entry
from nano_gpt.data.manifest import Manifest, PreparedSet

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_ASCII = " #"
BAR = 16  # characters


def as_json(prepared: PreparedSet) -> dict[str, Any]:
    """The manifest, and what follows from it."""
    manifest = prepared.manifest
    return {
        "folder": str(prepared.folder),
        "fingerprint": prepared.fingerprint,
        "bytes": prepared.bytes,
        **manifest.model_dump(exclude={"shards", "splits"}),
        "splits": {
            split: {
                **counts.model_dump(),
                "bytes_per_token": counts.bytes / counts.tokens if counts.tokens else None,
                "shards": [shard.model_dump(exclude={"split"}) for shard in manifest.shards if shard.split == split],
            }
            for split, counts in manifest.splits.items()
        },
    }


def as_text(prepared: PreparedSet, *, plain: bool = False) -> str:
    """For a terminal of 80 columns or more; `plain` keeps to ASCII."""
    parts = [str(prepared.folder), *_facts(prepared), "", *_splits(prepared), "", *_lengths(prepared, plain=plain)]
    return "\n".join(parts)


def _facts(prepared: PreparedSet) -> list[str]:
    manifest = prepared.manifest
    where = "before" if manifest.eot_opens else "behind"
    options = [f"{name} {value}" for name, value in manifest.options.items() if value is not None]
    return [
        f"  source       {manifest.dataset}: {manifest.description}",
        f"  revision     {manifest.revision}",
        *_folded("options", options or ["-"]),
        f"  tokenizer    {manifest.tokenizer}, {manifest.vocab_size:,} ids; "
        f"<|endoftext|> = {manifest.eot_id} {where} each document",
        f"               fingerprint {manifest.tokenizer_fingerprint[:16]}",
        f"  files        {manifest.dtype}, {_plural(len(manifest.shards), 'shard')} of up to "
        f"{manifest.tokens_per_shard:,} tokens, {_size(prepared.bytes)}",
        f"               fingerprint {prepared.fingerprint[:16]}",
        f"  duplicates   {manifest.duplicates_dropped:,} dropped; validation documents that are also in train: "
        f"{_in_both(manifest)}",
    ]


def _in_both(manifest: Manifest) -> str:
    if manifest.validation_in_train is not None:
        return f"{manifest.validation_in_train:,}"
    for split in ("train", "validation"):
        if split not in manifest.splits:
            return f"- (no {split} split)"
        if manifest.splits[split].documents == 0:
            return "- (no <|endoftext|>)"
    return "-"  # imported by a version that did not look


def _folded(label: str, words: Sequence[str]) -> list[str]:
    """`words` with commas between them, on as many lines as it takes."""
    lines = [f"  {label:<11}  {words[0]}"]
    for word in words[1:]:
        if len(lines[-1]) + len(word) + 2 > 80:
            lines[-1] += ","
            lines.append(f"{'':15}{word}")
        else:
            lines[-1] += f", {word}"
    return lines


def _splits(prepared: PreparedSet) -> list[str]:
    manifest = prepared.manifest
    rows = [["split", "tokens", "documents", "tokens each", "bytes/token", "shards", "size"]]
    for split, counts in manifest.splits.items():
        shards = [shard for shard in manifest.shards if shard.split == split]
        rows.append(
            [
                split,
                f"{counts.tokens:,}",
                f"{counts.documents:,}",
                f"{counts.tokens / counts.documents:,.1f}" if counts.documents else "-",
                f"{counts.bytes / counts.tokens:.3f}" if counts.tokens and counts.bytes else "-",
                f"{len(shards):,}",
                _size(sum(shard.bytes for shard in shards)),
            ]
        )
    return _table(rows)


def _lengths(prepared: PreparedSet, *, plain: bool) -> list[str]:
    """How many documents of each split are how long."""
    splits = {split: counts.lengths for split, counts in prepared.manifest.splits.items() if any(counts.lengths)}
    if not splits:
        return ["  document lengths: -"]
    used = [k for lengths in splits.values() for k, count in enumerate(lengths) if count]
    places = range(min(used), max(used) + 1)
    labels = ["tokens", *(_range(k) for k in places)]
    columns = []
    for split, lengths in splits.items():
        counts = [lengths[k] if k < len(lengths) else 0 for k in places]
        numbers = [f"{split} documents", *(f"{count:,}" for count in counts)]
        width, most = max(map(len, numbers)), max(counts)
        bars = ["", *(_bar(count / most, plain=plain) for count in counts)]
        columns.append([f"{number:>{width}} {bar:<{BAR}}" for number, bar in zip(numbers, bars, strict=True)])
    width = max(map(len, labels))
    return [
        f"  {label:>{width}}  {'  '.join(cells)}".rstrip()
        for label, cells in zip(labels, zip(*columns, strict=True), strict=True)
    ]


def _range(k: int) -> str:
    first, last = 2**k, 2 ** (k + 1) - 1
    return f"{first}" if first == last else f"{first}-{last}"


def _bar(share: float, *, plain: bool) -> str:
    """A bar of at most BAR characters; what is not nothing can be seen."""
    steps = _ASCII if plain else _EIGHTHS
    eighths = len(steps) - 1
    length = max(round(share * BAR * eighths), 1 if share else 0)
    whole, rest = divmod(length, eighths)
    return (steps[-1] * whole + steps[rest]).rstrip()


def list_as_json(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    return [
        {"name": entry.name, "problem": entry.problem, **(as_json(entry.prepared) if entry.prepared else {})}
        for entry in entries
    ]


def list_as_text(entries: Sequence[Entry]) -> str:
    """One line for each set."""
    rows = [["name", "tokenizer", "train tokens", "documents", "bytes/token", "size"]]
    problems = []
    for entry in entries:
        if entry.prepared is None:
            problems.append(f"  {entry.name}: {entry.problem}")
            continue
        manifest = entry.prepared.manifest
        counts = manifest.splits.get("train")
        rows.append(
            [
                entry.name,
                manifest.tokenizer,
                f"{counts.tokens:,}" if counts else "-",
                f"{counts.documents:,}" if counts else "-",
                f"{counts.bytes / counts.tokens:.3f}" if counts and counts.tokens and counts.bytes else "-",
                _size(entry.prepared.bytes),
            ]
        )
    return "\n".join([*(_table(rows, left=2) if len(rows) > 1 else []), *problems])


def _table(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """The first `left` columns begin at the left, the others end at the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(
            f"{cell:<{width}}" if place < left else f"{cell:>{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _size(size: int) -> str:
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= limit:
            return f"{size / limit:,.1f} {unit}"
    return f"{size} B"
