"""A corpus: documents, where they came from, and how they are parted into training and validation. No torch."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

# Share of the characters kept for validation where the source brings no split of its own.
VAL_SHARE = 0.1
# From this many documents on whole documents are kept aside; below, the end of the text.
MIN_DOCUMENTS = 10


@dataclass(frozen=True)
class Corpus:
    """Documents of text. `validation` is the source's own split, empty where it has none.

    `source` says what was taken and from where, `licence` under which terms: both end up in meta.json.
    """

    dataset: str
    source: str
    licence: str
    train: tuple[str, ...]
    validation: tuple[str, ...] = ()

    def sha256(self) -> str:
        """The content's hash: every document of both splits, in order, with its length before it."""
        digest = hashlib.sha256()
        for split in (self.train, self.validation):
            digest.update(len(split).to_bytes(8, "little"))
            for document in split:
                data = document.encode()
                digest.update(len(data).to_bytes(8, "little"))
                digest.update(data)
        return digest.hexdigest()

    def splits(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(training, validation) documents: the source's own split, or ours. No text is in both."""
        if self.validation:
            return self.train, self.validation
        if len(self.train) >= MIN_DOCUMENTS:
            train, validation = by_document(self.train)
            # A few huge documents among tiny ones leave next to nothing that may be kept aside.
            if sum(map(len, validation)) >= VAL_SHARE / 2 * sum(map(len, self.train)):
                return train, validation
        return by_position(self.train)


def by_document(documents: Sequence[str], share: float = VAL_SHARE) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Keep whole documents aside, in the order of their hashes, up to `share` of the characters.

    A document that would go over the share is passed over, so that one huge one cannot become all of validation.
    Equal documents go the same way.
    """
    copies = Counter(documents)
    room = share * sum(map(len, documents))
    kept: set[str] = set()
    for document in sorted(copies, key=lambda text: hashlib.sha256(text.encode()).digest()):
        size = len(document) * copies[document]
        if size <= room:
            kept.add(document)
            room -= size
    train = tuple(document for document in documents if document not in kept)
    return train, tuple(document for document in documents if document in kept)


def by_position(documents: Sequence[str], share: float = VAL_SHARE) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Keep the end of the last text aside: its last `share` of all characters, cut where a line or a word ends."""
    length = sum(map(len, documents))
    start = round(length * (1 - share))
    train: list[str] = []
    validation: list[str] = []
    position = 0
    for document in documents:
        cut = min(max(start - position, 0), len(document))
        if 0 < cut < len(document):
            cut = _boundary(document, cut)
        position += len(document)
        train += [document[:cut]] if document[:cut] else []
        validation += [document[cut:]] if document[cut:] else []
    return tuple(train), tuple(validation)


def _boundary(text: str, cut: int, reach: int = 2000) -> int:
    """The end of the line, else of the word, that `cut` falls into, if one ends within `reach` characters."""
    for mark in ("\n", " "):
        found = text.find(mark, cut, cut + reach)
        if found >= 0:
            return found + 1
    return cut


def pieces(documents: Iterable[str], size: int) -> Iterator[tuple[str, bool]]:
    """The documents cut into texts of about `size` characters; True with the last piece of a document.

    Cuts fall behind a line's end (a tokenizer then sees a word whole), or after 4 x size where no line ends.
    """
    for document in documents:
        start = 0
        while start < len(document):
            cut = document.find("\n", start + size, start + 4 * size) + 1 or start + 4 * size
            cut = len(document) if start + size >= len(document) else min(cut, len(document))
            yield document[start:cut], cut == len(document)
            start = cut
