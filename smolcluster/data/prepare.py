"""Make the data folder of a run, once: text -> tokens, or pictures -> pixels, in memory-mapped files. No torch.

The folder's name is the hash of everything that decides its content, so the same request finds it again and a changed
text, tokenizer or length makes another (building.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from smolcluster.data.building import folder_name, is_whole, move_into_place, workshop
from smolcluster.data.corpus import Corpus
from smolcluster.data.images import write_images
from smolcluster.data.meta import DATA_SCHEMA, read_meta
from smolcluster.data.pictures import Pictures
from smolcluster.data.sources import load_corpus, load_pictures
from smolcluster.data.staged import stage
from smolcluster.data.tokenise import write_text
from smolcluster.data.tokenizer import bpe_size, load_tokenizer
from smolcluster.errors import ConfigError, Problem
from smolcluster.spec.run import GPTSpec, NNSpec, RunSpec

# How text is split and pictures are laid out: another way makes other folders of the same content.
LAYOUT = 2

Say = Callable[[str], None]


def prepare_data(run: RunSpec, cache: Path, say: Say = lambda _: None, global_batch: int | None = None) -> Path:
    """The data folder for `run` under `cache`, made if it is not there. `say` gets lines for the person.

    `global_batch` is the samples of one step as the plan has them; None counts one rank for every participant.
    ConfigError when the dataset or tokenizer cannot be had, does not fit the model, or is too small for one step of all
    ranks.
    """
    samples = smallest_step(run) if global_batch is None else global_batch
    if isinstance(run.model, GPTSpec):
        corpus = load_corpus(run.data)
        say(f"data: {corpus.source} (licence: {corpus.licence})")
        folder = prepare_corpus(corpus, run.data.tokenizer, run.model.max_seq_len, cache, say, samples)
    else:
        pictures = load_pictures(run.data, cache)
        say(f"data: {pictures.source} (licence: {pictures.licence})")
        if pictures.warning:
            say(f"data: {pictures.warning}")
        _require_fit(run.model, pictures)
        folder = prepare_pictures(pictures, cache, say, samples)
    read_meta(folder).require(samples)
    return folder


def smallest_step(run: RunSpec) -> int:
    """Samples of one step if every participant holds one rank. In a chain of layers one batch passes all of them."""
    if run.strategy == "mp":
        return run.training.batch_size
    return sum(p.batch_size or run.training.batch_size for p in run.participants if p.role == "worker") or 1


def prepare_corpus(
    corpus: Corpus, tokenizer: str, seq_len: int, cache: Path, say: Say = lambda _: None, global_batch: int = 1
) -> Path:
    """As prepare_data, for a corpus at hand. `tokenizer` as in DataSpec. A text too small leaves nothing behind."""
    size = bpe_size(tokenizer)
    # A ready tokenizer is loaded before the key is known: its content, not its name, is part of the key.
    ready = None if size is not None else load_tokenizer(tokenizer)
    identity = tokenizer if ready is None else hashlib.sha256(ready.tokenizer.to_str().encode()).hexdigest()
    with workshop(cache) as building:
        staged = stage(corpus, building / "text")
        final = cache / folder_name(corpus.dataset, [DATA_SCHEMA, LAYOUT, staged.sha256(), identity, seq_len])
        if is_whole(final):
            say(f"data: already prepared in {final}")
            return final
        folder = building / "folder"
        folder.mkdir()
        meta = write_text(folder, corpus, staged, ready, size, seq_len)
        meta.require(global_batch)
        move_into_place(folder, final)
    say(f"data: {meta.train_tokens:,} tokens to train on, {meta.val_tokens:,} to validate, {meta.tokenizer}: {final}")
    return final


def prepare_pictures(pictures: Pictures, cache: Path, say: Say = lambda _: None, global_batch: int = 1) -> Path:
    """As prepare_data, for pictures at hand. Too few of them leave nothing behind."""
    final = cache / folder_name(pictures.dataset, [DATA_SCHEMA, LAYOUT, pictures.sha256()])
    if is_whole(final):
        say(f"data: already prepared in {final}")
        return final
    with workshop(cache) as building:
        folder = building / "folder"
        folder.mkdir()
        meta = write_images(folder, pictures)
        meta.require(global_batch)
        move_into_place(folder, final)
    say(f"data: {meta.train_samples:,} pictures to train on, {meta.val_samples:,} to validate: {final}")
    return final


def _require_fit(model: NNSpec, pictures: Pictures) -> None:
    """ConfigError unless the model takes these pictures and knows their classes."""
    pixels = pictures.train.pixels.shape[1]
    wanted = {"input_dim": (model.input_dim, pixels, "pixels"), "out": (model.out, pictures.classes, "classes")}
    problems = [
        Problem("", 0, f"model.{key}", f"is {said}, but {pictures.dataset} has {there} {word}", f"write {there}")
        for key, (said, there, word) in wanted.items()
        if said != there
    ]
    if problems:
        raise ConfigError(problems)
