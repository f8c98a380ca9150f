"""Loading: the newest checkpoint that is whole and right, into whatever strategy, stage and world size there is now.

1. Each rank says what it sees; all choose from the same table (choice.py).
2. Each says which slices it needs and cannot read itself. Those are broadcast by a rank that can, one by one.
3. Each hashes every file it is going to read, before anything is loaded. If one is wrong all go back to 1 without it:
   another copy of it may be good, or an older checkpoint.
4. The strategy is given the slices, read one at a time.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from smolcluster.errors import InputError, Problem
from smolcluster.runtime.checkpoint.choice import Candidate, candidates
from smolcluster.runtime.checkpoint.fit import Shapes, differences, dropped, notes_on, uncovered
from smolcluster.runtime.checkpoint.manifest import Entry, Manifest, parse_manifest
from smolcluster.runtime.checkpoint.reading import Entries, Schedule, slices_of
from smolcluster.runtime.checkpoint.sources import Known, Lookout, Source, View
from smolcluster.runtime.checkpoint.talk import gather, send_text
from smolcluster.runtime.context import RunContext
from smolcluster.runtime.slices import Box, Slice, overlap

log = logging.getLogger(__name__)


class Holder(Protocol):
    """What loading needs of a strategy."""

    def held_slices(self) -> Iterator[Slice]:
        """All that has to be given."""
        ...

    def load_slices(self, slices: Iterator[Slice]) -> None:
        """Take it."""
        ...


@dataclass(frozen=True)
class Restored:
    """What was loaded, and the folder it came from as this rank knows it."""

    manifest: Manifest
    folder: Path

    @property
    def step(self) -> int:
        """The last step that was taken."""
        return self.manifest.step


def restore(context: RunContext, strategy: Holder, sources: Sequence[Source]) -> Restored | None:
    """Load the newest good checkpoint of the first source that has one; None if there never was any.

    All ranks call it, with the same sources but for their paths. InputError, on all of them, if none can be used where
    there are some, if a source that was named has none, or if the model is another one.
    """
    return _Loader(context, strategy, sources).load() if sources else None


class _Loader:
    def __init__(self, context: RunContext, strategy: Holder, sources: Sequence[Source]) -> None:
        self._context = context
        self._strategy = strategy
        self._sources = sources
        self._rank, self._world_size = context.rank, context.world_size
        self._lookout = Lookout(sources, context.me.node)
        self._held: dict[str, list[Box]] = {}
        shapes: Shapes = {}
        for part in strategy.held_slices():
            self._held.setdefault(part.name, []).append(part.box)
            shapes[part.name] = part.shape
        self._shapes: Shapes = {}
        for text in gather(json.dumps(shapes), self._world_size):
            self._shapes.update({name: tuple(shape) for name, shape in json.loads(text).items()})
        self._tried: dict[str, None] = {}  # what was wrong, in order, each once

    def load(self) -> Restored | None:
        self._share_manifests()
        while True:
            texts = gather(self._lookout.view().model_dump_json(), self._world_size)
            views = [View.model_validate_json(text) for text in texts]
            self._note(problem for view in views for problem in view.problems)
            found = candidates(views)
            chosen = self._first_whole(found)
            if chosen is None:
                self._complain(bool(found))
                return None
            manifest = self._lookout.manifests[chosen.source, chosen.digest]
            self._refuse_another_model(manifest, chosen)
            incomplete = uncovered(self._shapes, manifest)
            if incomplete:
                self._note(incomplete)
                self._lookout.forget(chosen.digest)
                continue
            schedule = self._schedule(manifest, chosen)
            rows = gather(json.dumps(self._wrong_files(manifest, schedule)), self._world_size)
            wrong = [text for row in rows for text in json.loads(row)]
            if wrong:
                self._note(wrong)
                continue
            self._strategy.load_slices(slices_of(manifest, schedule, self._rank, partial(self._path, manifest)))
            self._tell(manifest)
            return Restored(manifest, self._sources[chosen.source].folder)

    def _share_manifests(self) -> None:
        """Find all manifests, and tell those that not everybody found."""
        problems = self._lookout.find_manifests()
        mine = sorted(self._lookout.manifests)
        rows = [json.loads(text) for text in gather(json.dumps([problems, mine]), self._world_size)]
        self._note(text for row in rows for text in row[0])
        finders: dict[Known, list[int]] = {}
        for rank, (_, keys) in enumerate(rows):
            for source, digest in keys:
                finders.setdefault((source, digest), []).append(rank)
        for key, ranks in sorted(finders.items()):
            if len(ranks) < self._world_size:
                own = self._lookout.manifests[key].to_json() if self._rank == ranks[0] else None
                text = send_text(own, ranks[0], self._rank, self._world_size)
                self._lookout.manifests[key] = parse_manifest(text)

    def _note(self, problems: Iterable[str]) -> None:
        self._tried.update(dict.fromkeys(problems))

    def _first_whole(self, found: Sequence[Candidate]) -> Candidate | None:
        """The preferred one that lacks nothing."""
        for candidate in found:
            if candidate.whole:
                return candidate
            if candidate.missing:  # of a damaged file it has been told
                where = self._sources[candidate.source].folder
                what = f"the checkpoint of step {candidate.step} in {where} is not whole: nobody sees"
                self._note([f"{what} {'; '.join(candidate.missing)}"])
        return None

    def _complain(self, found_any: bool) -> None:
        """There is none that can be used: an error, unless there never was one and nobody asked for it."""
        wanted = [source for source in self._sources if source.named]
        if not (wanted or found_any or self._tried):
            return
        source = wanted[0] if wanted else self._sources[0]
        which = "no checkpoint" if source.step is None else f"no checkpoint of step {source.step}"
        tried = "".join(f"\n      {text}" for text in self._tried) or " (there is none)"
        fix = (
            "start the nodes that have what is missing; bring damaged files back from a copy "
            "(-e replicate_checkpoints=2 keeps one); name another run or manifest; or start anew without resuming"
        )
        raise InputError([Problem(str(source.folder), 0, "", f"{which} in it can be used:{tried}", fix)])

    def _refuse_another_model(self, manifest: Manifest, chosen: Candidate) -> None:
        found = differences(self._shapes, manifest)
        if found:
            what = f"the checkpoint of step {manifest.step} is of another model:" + "".join(
                f"\n      {d}" for d in found
            )
            fix = "use the model settings of that run (its plan.json has them), or start anew without resuming"
            raise InputError([Problem(str(self._sources[chosen.source].folder), 0, "", what, fix)])

    def _needed(self, entry: Entry) -> bool:
        box = Box(entry.offset, entry.sizes)
        return any(overlap(box, mine) is not None for mine in self._held.get(entry.name, ()))

    def _schedule(self, manifest: Manifest, chosen: Candidate) -> Schedule:
        read: Entries = {}
        lacking: Entries = {}
        for number, file in enumerate(manifest.files):
            needed = [index for index, entry in enumerate(file.entries) if self._needed(entry)]
            if needed:
                (read if self._rank in chosen.seen[number] else lacking)[number] = needed
        wanted: dict[int, set[int]] = {}
        for text in gather(json.dumps(lacking), self._world_size):
            for number, entries in json.loads(text).items():
                wanted.setdefault(int(number), set()).update(entries)
        sent = {number: (chosen.seen[number][0], sorted(wanted[number])) for number in sorted(wanted)}
        return Schedule(read, lacking, sent)

    def _wrong_files(self, manifest: Manifest, schedule: Schedule) -> list[str]:
        """Hash what this rank is going to read; what is not as it was written is not looked at again."""
        wrong = []
        for number in schedule.files_of(self._rank):
            problem = self._lookout.verify(self._path(manifest, number), manifest.files[number])
            if problem is not None:
                wrong.append(problem)
        return wrong

    def _path(self, manifest: Manifest, number: int) -> Path:
        paths = self._lookout.paths(manifest.digest, number)
        assert paths, "only files that this rank sees are read"
        return paths[0]

    def _tell(self, manifest: Manifest) -> None:
        if self._rank != 0:
            return
        for text in self._tried:
            log.warning("%s", text)
        if self._tried:
            log.warning("the checkpoint of step %d is taken", manifest.step)
        for text in dropped(self._shapes, manifest):
            log.warning("%s", text)
        for text in notes_on(manifest, self._context):
            log.info("note: %s", text)
        log.info("resumed from step %d of %s", manifest.step, manifest.run_id)
