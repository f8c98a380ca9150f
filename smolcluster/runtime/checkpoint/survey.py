"""Which checkpoints a run has and whether their files are whole: for people, before anybody loads. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from smolcluster.runtime.checkpoint.choice import candidates
from smolcluster.runtime.checkpoint.manifest import Manifest
from smolcluster.runtime.checkpoint.sources import Lookout, Source


@dataclass(frozen=True)
class Seen:
    """One checkpoint. `whole`: a good copy of each of its files is seen from here; `missing` are those without any."""

    manifest: Manifest
    whole: bool
    missing: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """The size of all its files, copies not counted."""
        return sum(file.bytes for file in self.manifest.files)


@dataclass(frozen=True)
class Survey:
    """The checkpoints of a run, the newest first, and what is wrong with some. `hashed`: all files were read."""

    checkpoints: tuple[Seen, ...] = ()
    problems: tuple[str, ...] = ()
    hashed: bool = False

    @property
    def newest_whole(self) -> Seen | None:
        """The newest one that can be read from here."""
        return next((seen for seen in self.checkpoints if seen.whole), None)

    @property
    def newest_possible(self) -> Seen | None:
        """The newest one that can be read if what is missing here lies on other machines."""
        return next((seen for seen in self.checkpoints if seen.whole or seen.missing), None)

    @property
    def lacks(self) -> tuple[str, ...]:
        """A line for each checkpoint with files of which nothing is seen here."""
        return tuple(
            f"step {seen.manifest.step:,}: not seen here: {'; '.join(seen.missing)}"
            for seen in self.checkpoints
            if seen.missing
        )


def survey(source: Source, hashes: bool = False) -> Survey:
    """Look at all of a run's checkpoints, or at the named one: every file is there and as long as it was written.

    `hashes`: every copy of every file is read, and is what was written.
    """
    lookout = Lookout((source,), "this machine")
    problems = lookout.find_manifests()
    view = lookout.view()
    problems += view.problems
    if hashes:
        problems += _damaged(lookout)
        view = lookout.view()
        problems += [problem for problem in view.problems if problem not in problems]
    found = candidates([view])
    seen = (Seen(lookout.manifests[one.source, one.digest], one.whole, one.missing) for one in found)
    return Survey(tuple(seen), tuple(problems), hashes)


def _damaged(lookout: Lookout) -> Iterable[str]:
    for manifest in lookout.manifests.values():
        for number, file in enumerate(manifest.files):
            for path in lookout.paths(manifest.digest, number):
                problem = lookout.verify(path, file)
                if problem is not None:
                    yield problem
