"""Text -> tokens -> the files of a data folder, in memory that does not grow with the text. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from smolcluster.data.building import write_file
from smolcluster.data.corpus import Corpus, pieces
from smolcluster.data.meta import META_FILE, TOKENIZER_FILE, DataMeta, Split, token_file
from smolcluster.data.staged import Ranges, Staged
from smolcluster.data.tokenizer import TokenizerChoice, train_bpe
from smolcluster.files import hash_of

# Characters per text given to the tokenizer, and characters and texts per call: they bound what its results hold.
PIECE_CHARACTERS = 1 << 16
CALL_CHARACTERS = 1 << 20
CALL_PIECES = 4096


def write_text(
    folder: Path, corpus: Corpus, staged: Staged, ready: TokenizerChoice | None, size: int | None, seq_len: int
) -> DataMeta:
    """Write every file of the data folder; meta.json last. `ready` None trains a BPE of `size` entries."""
    train, validation = staged.splits()
    chosen = ready if ready is not None else train_bpe((text for text, _ in _cut(staged, train)), size or 0)
    vocabulary = chosen.tokenizer.get_vocab_size()
    dtype = np.dtype("<u2") if vocabulary <= 1 << 16 else np.dtype("<u4")
    ranges: dict[Split, Ranges] = {"train": train, "val": validation}
    counts = {
        split: _write_tokens(folder / token_file(split), _cut(staged, part), chosen, dtype)
        for split, part in ranges.items()
    }
    # A sample's last target is the token after it: one token more than the samples hold.
    samples = {split: max(count - 1, 0) // seq_len for split, count in counts.items()}
    write_file(folder / TOKENIZER_FILE, chosen.tokenizer.to_str(pretty=True).encode())
    names = [token_file("train"), token_file("val"), TOKENIZER_FILE]
    meta = DataMeta(
        dataset=corpus.dataset,
        source=corpus.source,
        licence=corpus.licence,
        tokenizer=chosen.source,
        vocab_size=vocabulary,
        eos=chosen.end,
        seq_len=seq_len,
        dtype="uint16" if dtype.itemsize == 2 else "uint32",
        train_tokens=counts["train"],
        val_tokens=counts["val"],
        train_samples=samples["train"],
        val_samples=samples["val"],
        characters=staged.characters,
        sha256={name: hash_of(folder / name) for name in names},
    )
    write_file(folder / META_FILE, meta.to_json().encode())
    return meta


def _cut(staged: Staged, ranges: Ranges) -> Iterator[tuple[str, bool]]:
    """The documents in pieces; True with the last piece of a document."""
    for blocks in staged.read(ranges):
        yield from pieces(blocks, PIECE_CHARACTERS)


def _write_tokens(file: Path, texts: Iterator[tuple[str, bool]], chosen: TokenizerChoice, dtype: np.dtype) -> int:
    """Write the texts' tokens, each document followed by the end token if there is one; give their number."""
    count, characters = 0, 0
    batch: list[tuple[str, bool]] = []
    end = [] if chosen.end is None else [chosen.end]
    with file.open("wb") as out:

        def flush() -> int:
            encodings = chosen.tokenizer.encode_batch_fast([text for text, _ in batch], add_special_tokens=False)
            written = 0
            for encoding, (_, last) in zip(encodings, batch, strict=True):
                tokens = np.asarray(encoding.ids + (end if last else []), dtype=dtype)
                out.write(tokens.tobytes())
                written += len(tokens)
            batch.clear()
            return written

        for piece in texts:
            batch.append(piece)
            characters += len(piece[0])
            if characters >= CALL_CHARACTERS or len(batch) >= CALL_PIECES:
                count += flush()
                characters = 0
        if batch:
            count += flush()
        out.flush()
        os.fsync(out.fileno())
    return count
