"""A corpus laid down in one file, so that it can be read again and again in memory that does not grow with it.

Sources give their text once (a download may not come twice). Here it lies document behind document, and what is
remembered of each is where it ends, how long it is, and its hash.
"""

from __future__ import annotations

import codecs
import hashlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from smolcluster.data.corpus import Corpus, Document, parts_of

# Share of the characters kept for validation where the source brings no split of its own.
VAL_SHARE = 0.1
# From this many documents on whole documents are kept aside; below, the end of the text.
MIN_DOCUMENTS = 10
# A cut of ours falls behind the line, else the word, that ends within so many characters.
REACH = 2000
BLOCK_BYTES = 1 << 16

# Documents, or parts of them, as half-open ranges of bytes, int64 (N, 2).
Ranges = np.ndarray


@dataclass
class Part:
    """The documents of one split: for each its end in the file, its characters, and 32 bytes of hash."""

    start: int
    ends: array[int] = field(default_factory=lambda: array("q"))
    lengths: array[int] = field(default_factory=lambda: array("q"))
    digests: bytearray = field(default_factory=bytearray)

    def ranges(self) -> Ranges:
        """Every document, whole."""
        ends = np.array(self.ends, dtype=np.int64)
        return np.stack([np.concatenate([[self.start], ends[:-1]])[: len(ends)], ends], axis=1)


class Staged:
    """A corpus in a file. Make one with `stage(corpus, file)`."""

    def __init__(self, file: Path, train: Part, validation: Part) -> None:
        self._file = file
        self._train, self._validation = train, validation

    @property
    def characters(self) -> int:
        """Of all documents."""
        return sum(self._train.lengths) + sum(self._validation.lengths)

    def sha256(self) -> str:
        """The content's hash: every document of both splits, in order."""
        digest = hashlib.sha256()
        for part in (self._train, self._validation):
            digest.update(len(part.ends).to_bytes(8, "little"))
            digest.update(part.digests)
        return digest.hexdigest()

    def splits(self) -> tuple[Ranges, Ranges]:
        """(training, validation): the source's own split, or ours. No text is in both."""
        train = self._train.ranges()
        if self._validation.ends:
            return train, self._validation.ranges()
        lengths = np.array(self._train.lengths, dtype=np.int64)
        if len(train) >= MIN_DOCUMENTS:
            kept = by_document(lengths, bytes(self._train.digests))
            # A few huge documents among tiny ones leave next to nothing that may be kept aside.
            if lengths[kept].sum() >= VAL_SHARE / 2 * lengths.sum():
                return train[~kept], train[kept]
        return self._by_position(train, lengths)

    def read(self, ranges: Ranges) -> Iterator[Iterator[str]]:
        """The text of each range, in blocks. A range's blocks must be read before the next range's."""
        with self._file.open("rb", buffering=BLOCK_BYTES) as file:
            at = 0
            for start, stop in ranges.tolist():
                if at != start:
                    file.seek(start)
                yield _blocks(file, stop - start)
                at = stop

    def _by_position(self, train: Ranges, lengths: np.ndarray) -> tuple[Ranges, Ranges]:
        """Keep the end of the text aside: the last characters of all, cut where a line or a word ends."""
        cut = round(int(lengths.sum()) * (1 - VAL_SHARE))
        before = np.concatenate([[0], np.cumsum(lengths)])
        index = int(np.searchsorted(before, cut, side="right")) - 1
        if index >= len(train) or before[index] == cut:
            return train[:index], train[index:]
        start, stop = train[index].tolist()
        middle = start + self._bytes_to_a_boundary(train[index], cut - int(before[index]))
        left = np.concatenate([train[:index], [[start, middle]]])
        right = np.concatenate([[[middle, stop]], train[index + 1 :]])
        return left, right[right[:, 0] < right[:, 1]]

    def _bytes_to_a_boundary(self, document: Ranges, characters: int) -> int:
        """Bytes of the first `characters` of a document, and of what they leave of a line, else of a word."""
        rest, before = characters, 0
        reader = self.read(document[None])  # held: when it goes, its file does
        blocks = next(reader)
        for block in blocks:
            if rest < len(block):
                text = block + "".join(next(blocks, "") for _ in range(1 + 4 * REACH // BLOCK_BYTES))
                return before + len(text[: _boundary(text, rest)].encode())
            rest -= len(block)
            before += len(block.encode())
        return before


def stage(corpus: Corpus, file: Path) -> Staged:
    """Write the corpus into `file`, UTF-8. Its documents are read once; empty ones are left out."""
    with file.open("wb") as out:

        def write(documents: Iterable[Document]) -> Part:
            part = Part(start=out.tell())
            end = part.start
            for document in documents:
                digest, length = hashlib.sha256(), 0
                for text in parts_of(document):
                    data = text.encode()
                    out.write(data)
                    digest.update(data)
                    length += len(text)
                    end += len(data)
                if length:
                    part.ends.append(end)
                    part.lengths.append(length)
                    part.digests += digest.digest()
            return part

        return Staged(file, write(corpus.train), write(corpus.validation))


def by_document(lengths: np.ndarray, digests: bytes, share: float = VAL_SHARE) -> np.ndarray:
    """Keep whole documents aside, in the order of their hashes, up to `share` of the characters; a mask, True for kept.

    A document that would go over the share is passed over, so that one huge one cannot become all of validation.
    Equal documents go the same way.
    """
    hashes = np.frombuffer(digests, dtype=">u8").reshape(-1, 4).astype(np.uint64)
    distinct, copy_of = np.unique(hashes, axis=0, return_inverse=True)  # sorted as the hashes are
    sizes = np.bincount(copy_of, weights=lengths, minlength=len(distinct))
    room = share * float(lengths.sum())
    kept = np.zeros(len(distinct), dtype=bool)
    for index, size in enumerate(sizes.tolist()):
        if size <= room:
            kept[index] = True
            room -= size
    return kept[copy_of]


def _blocks(file: BinaryIO, left: int) -> Iterator[str]:
    """The next `left` bytes of a file as text, no character torn."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    while left:
        data = file.read(min(left, BLOCK_BYTES))
        left -= len(data)
        if not data:
            raise OSError("the text that was laid down for preparing is shorter than it was")
        if text := decoder.decode(data, final=not left):
            yield text


def _boundary(text: str, cut: int) -> int:
    """The end of the line, else of the word, that `cut` falls into, if one ends within reach."""
    for mark in ("\n", " "):
        found = text.find(mark, cut, cut + REACH)
        if found >= 0:
            return found + 1
    return cut
