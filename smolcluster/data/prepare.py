"""Make the data folder of a run, once: text -> tokens -> memory-mapped files. No torch.

The folder's name is the hash of everything that decides its content, so the same request finds it again and a changed
text, tokenizer or length makes another. It is built aside and renamed into place: a reader never sees half a folder,
and of two callers at once one wins and the other takes the winner's, which holds the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from smolcluster.data.corpus import Corpus, pieces
from smolcluster.data.meta import DATA_SCHEMA, META_FILE, TOKENIZER_FILE, DataMeta, Split, read_meta, token_file
from smolcluster.data.sources import load_corpus
from smolcluster.data.tokenizer import TokenizerChoice, bpe_size, load_tokenizer, train_bpe
from smolcluster.data.tokens import TokenFolder
from smolcluster.errors import ConfigError, Problem
from smolcluster.spec.run import GPTSpec, RunSpec

# Characters per text given to the tokenizer, and texts per call: bounds what its results hold in memory.
PIECE_CHARACTERS = 1 << 16
PIECES_PER_CALL = 64
BUILDING = ".building-"
# No preparation takes a day.
ABANDONED_S = 86_400


def prepare_data(
    run: RunSpec, cache: Path, say: Callable[[str], None] = lambda _: None, global_batch: int | None = None
) -> Path:
    """The data folder for `run` under `cache`, made if it is not there. `say` gets lines for the person.

    `global_batch` is the samples of one step as the plan has them; None counts one rank for every participant.
    ConfigError when the dataset or tokenizer cannot be had, or the text is too small for one step of all ranks.
    """
    if not isinstance(run.model, GPTSpec):
        fix = "train the gpt model on it, or leave --model away"
        raise ConfigError([Problem("", 0, "model.type", "only the gpt model is trained on text", fix)])
    seq_len = run.model.max_seq_len
    corpus = load_corpus(run.data)
    say(f"data: {corpus.source} (licence: {corpus.licence})")
    samples = smallest_step(run) if global_batch is None else global_batch
    folder = prepare_corpus(corpus, run.data.tokenizer, seq_len, cache, say, samples)
    read_meta(folder).require(samples)
    return folder


def smallest_step(run: RunSpec) -> int:
    """Samples of one step if every participant holds one rank."""
    return sum(p.batch_size or run.training.batch_size for p in run.participants if p.role == "worker") or 1


def prepare_corpus(
    corpus: Corpus,
    tokenizer: str,
    seq_len: int,
    cache: Path,
    say: Callable[[str], None] = lambda _: None,
    global_batch: int = 1,
) -> Path:
    """As prepare_data, for a corpus at hand. `tokenizer` as in DataSpec. A text too small leaves nothing behind."""
    size = bpe_size(tokenizer)
    # A ready tokenizer is loaded before the key is known: its content, not its name, is part of the key.
    ready = None if size is not None else load_tokenizer(tokenizer)
    identity = tokenizer if ready is None else hashlib.sha256(ready.tokenizer.to_str().encode()).hexdigest()
    final = cache / _key(corpus, identity, seq_len)
    if _is_whole(final):
        say(f"data: already prepared in {final}")
        return final
    cache.mkdir(parents=True, exist_ok=True)
    _sweep(cache)
    building = Path(tempfile.mkdtemp(prefix=BUILDING, dir=cache))
    try:
        meta = _build(building, corpus, ready, size, seq_len)
        meta.require(global_batch)
        _move_into_place(building, final)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    say(f"data: {meta.train_tokens:,} tokens to train on, {meta.val_tokens:,} to validate, {meta.tokenizer}: {final}")
    return final


def _key(corpus: Corpus, identity: str, seq_len: int) -> str:
    facts = [DATA_SCHEMA, corpus.sha256(), identity, seq_len]
    return f"{corpus.dataset}-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]}"


def _is_whole(folder: Path) -> bool:
    """True for a good folder; a damaged one is removed so that it is made again."""
    if not folder.is_dir():
        return False
    try:
        TokenFolder.open(folder)
        return True
    except ConfigError:
        pass
    shutil.rmtree(folder)  # out here nothing holds its files open, which Windows would mind
    return False


def _build(folder: Path, corpus: Corpus, ready: TokenizerChoice | None, size: int | None, seq_len: int) -> DataMeta:
    """Write every file of the data folder; meta.json last."""
    train, validation = corpus.splits()
    chosen = ready if ready is not None else train_bpe(_texts(train), size or 0)
    vocabulary = chosen.tokenizer.get_vocab_size()
    dtype = np.dtype("<u2") if vocabulary <= 1 << 16 else np.dtype("<u4")
    counts: dict[Split, int] = {}
    documents_of: dict[Split, Sequence[str]] = {"train": train, "val": validation}
    for split, documents in documents_of.items():
        counts[split] = _write_tokens(folder / token_file(split), documents, chosen, dtype)
    # A sample's last target is the token after it: one token more than the samples hold.
    samples = {split: max(count - 1, 0) // seq_len for split, count in counts.items()}
    _write(folder / TOKENIZER_FILE, chosen.tokenizer.to_str(pretty=True).encode())
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
        characters=sum(map(len, train)) + sum(map(len, validation)),
        sha256={name: _hash(folder / name) for name in names},
    )
    _write(folder / META_FILE, meta.to_json().encode())
    return meta


def _texts(documents: Sequence[str]) -> Sequence[str]:
    return [text for text, _ in pieces(documents, PIECE_CHARACTERS)]


def _write_tokens(file: Path, documents: Sequence[str], chosen: TokenizerChoice, dtype: np.dtype) -> int:
    """Write the documents' tokens, each document followed by the end token if there is one; give their number."""
    count = 0
    batch: list[tuple[str, bool]] = []
    end = [] if chosen.end is None else [chosen.end]
    with file.open("wb") as out:

        def flush() -> int:
            encodings = chosen.tokenizer.encode_batch_fast([text for text, _ in batch], add_special_tokens=False)
            ids = [
                part
                for encoding, (_, last) in zip(encodings, batch, strict=True)
                for part in (encoding.ids, end if last else [])
            ]
            tokens = np.concatenate([np.asarray(part, dtype=dtype) for part in ids])
            out.write(tokens.tobytes())
            return len(tokens)

        for piece in pieces(documents, PIECE_CHARACTERS):
            batch.append(piece)
            if len(batch) == PIECES_PER_CALL:
                count += flush()
                batch.clear()
        if batch:
            count += flush()
        out.flush()
        os.fsync(out.fileno())
    return count


def _write(file: Path, data: bytes) -> None:
    with file.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def _hash(file: Path) -> str:
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def _move_into_place(building: Path, final: Path) -> None:
    """Rename; where another caller was first its folder stays, which holds the same."""
    building.chmod(0o755)  # mkdtemp's 0700 would keep other users of the machine out
    try:
        building.rename(final)
    except OSError:
        if not _is_whole(final):
            building.rename(final)


def _sweep(cache: Path) -> None:
    """Remove what callers that were killed left behind."""
    for left in cache.glob(f"{BUILDING}*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(left)
