"""Which checkpoint is taken: a pure function of what all ranks see, so that all of them come to the same. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from smolcluster.runtime.checkpoint.sources import View


@dataclass(frozen=True)
class Candidate:
    """A checkpoint that has a manifest. `seen[f]` are the ranks that can read its file f. A `bad` file is there
    somewhere, but is not what was written.
    """

    source: int
    step: int
    generation: int
    digest: str
    seen: tuple[tuple[int, ...], ...]
    labels: tuple[str, ...]
    bad: frozenset[int] = frozenset()

    @property
    def whole(self) -> bool:
        """Whether every file can be read by somebody."""
        return all(self.seen)

    @property
    def missing(self) -> tuple[str, ...]:
        """The files of which nobody sees anything."""
        return tuple(label for n, label in enumerate(self.labels) if not self.seen[n] and n not in self.bad)


def candidates(views: Sequence[View]) -> list[Candidate]:
    """Every checkpoint, the preferred first: by source, then the newest step, of one step the latest generation's.

    All views are of the same manifests, in the same order. Incomplete ones are there too.
    """
    result = []
    for column in zip(*(view.sightings for view in views), strict=True):
        first = column[0]
        seen = tuple(
            tuple(rank for rank, sighting in enumerate(column) if number in sighting.files)
            for number in range(len(first.labels))
        )
        bad = frozenset(number for sighting in column for number in sighting.bad)
        result.append(Candidate(first.source, first.step, first.generation, first.digest, seen, first.labels, bad))
    return sorted(result, key=lambda c: (c.source, -c.step, -c.generation, c.digest))
