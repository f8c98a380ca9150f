"""A corpus: documents of text, where they came from, and how a long one is cut. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# A document, or the parts of one that is too long to be held at once.
Document = str | Iterable[str]


@dataclass(frozen=True)
class Corpus:
    """Documents of text, read once, from first to last. `validation` is the source's own split, empty without one.

    `source` says what was taken and from where, `licence` under which terms: both end up in meta.json.
    """

    dataset: str
    source: str
    licence: str
    train: Iterable[Document]
    validation: Iterable[Document] = ()


def parts_of(document: Document) -> Iterable[str]:
    """The parts of a document, one behind the other."""
    return (document,) if isinstance(document, str) else document


def pieces(parts: Iterable[str], size: int) -> Iterator[tuple[str, bool]]:
    """One document cut into texts of about `size` characters; True with the last. An empty one gives nothing.

    Cuts fall behind a line's end (a tokenizer then sees a word whole), or after 4 x size where no line ends. Where the
    parts meet changes nothing. At most 4 x size characters and a part are held.
    """
    rest = ""
    for part in parts:
        rest += part
        while len(rest) > 4 * size:
            cut = rest.find("\n", size, 4 * size) + 1 or 4 * size
            yield rest[:cut], False
            rest = rest[cut:]
    while len(rest) > size:
        cut = rest.find("\n", size, 4 * size) + 1 or 4 * size
        yield rest[:cut], cut >= len(rest)
        rest = rest[cut:]
    if rest:
        yield rest, True
