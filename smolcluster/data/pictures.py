"""Pictures with the class each shows, and where they came from. No torch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Labelled:
    """Pictures, uint8 (N, pixels), row by row, and their classes, uint8 (N,)."""

    pixels: np.ndarray
    labels: np.ndarray

    def take(self, which: np.ndarray) -> Labelled:
        """Those that a mask or a list of numbers names."""
        return Labelled(self.pixels[which], self.labels[which])


@dataclass(frozen=True)
class Pictures:
    """A data set of pictures in memory: one that is small enough.

    `source` says what was taken and from where, `licence` under which terms: both end up in meta.json. `warning` is
    what a person has to know of it besides, "" for nothing.
    """

    dataset: str
    source: str
    licence: str
    classes: int
    train: Labelled
    validation: Labelled
    warning: str = ""

    def sha256(self) -> str:
        """The content's hash: every picture and label of both splits, in order."""
        digest = hashlib.sha256()
        for part in (self.train, self.validation):
            digest.update(np.array(part.pixels.shape, dtype="<u8").tobytes())
            digest.update(np.ascontiguousarray(part.pixels).data)
            digest.update(np.ascontiguousarray(part.labels).data)
        return digest.hexdigest()


def split_by_content(both: Labelled, one_in: int = 10) -> tuple[Labelled, Labelled]:
    """(training, validation): about one picture in `one_in` is kept aside, chosen by the hash of its pixels.

    Neither the order of the pictures nor a generator decides anything, and equal pictures go the same way.
    """
    kept = np.array(
        [
            int.from_bytes(hashlib.sha256(row.tobytes()).digest()[:8], "little") % one_in == 0
            for row in np.ascontiguousarray(both.pixels)
        ],
        dtype=bool,
    )
    return both.take(~kept), both.take(kept)
