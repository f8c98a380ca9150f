"""What one rank sees of checkpoints in the folders it was told of: manifests, and the files that are there whole.

Every copy of a manifest counts: it was written after the one that makes the checkpoint exist. And since a crash may
have come between the two, ranks tell each other the manifests first, and then look for files. No torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from smolcluster.files import hash_of
from smolcluster.runtime.checkpoint.manifest import (
    MANIFEST_COPY,
    BadManifestError,
    Manifest,
    Place,
    ShardFile,
    parse_manifest,
    step_folder,
    step_of,
)
from smolcluster.runtime.runfolder import RunFolder
from smolcluster.spec.base import Frozen


@dataclass(frozen=True)
class Source:
    """A run's folder, on this host, where a checkpoint may lie. `step` None: the newest good one; else that one only.

    `named`: a person asked for it, so there has to be one.
    """

    folder: Path
    step: int | None = None
    named: bool = False

    @classmethod
    def named_by(cls, path: Path) -> Source:
        """The source a person names: a run's folder, or one of its manifests in either of its places."""
        step = step_of(path.stem) if path.suffix == ".json" else None
        if step is not None:
            return cls(path.parent.parent, step, named=True)
        step = step_of(path.parent.name)
        if step is not None and path.name == MANIFEST_COPY:  # <run>/nodes/<node>/checkpoints/step-.../manifest.json
            return cls(path.parents[4], step, named=True)
        return cls(path, None, named=True)


class Sighting(Frozen):
    """One checkpoint as one rank sees it. `files`: which of its files are there; `labels`: what each of them is.

    `bad`: the files of which something is there that is not what was written; what that is has been told.
    """

    source: int
    digest: str
    step: int
    generation: int
    files: tuple[int, ...]
    labels: tuple[str, ...]
    bad: tuple[int, ...] = ()


class View(Frozen):
    """All that one rank sees, and what it found to be wrong."""

    sightings: tuple[Sighting, ...] = ()
    problems: tuple[str, ...] = ()


Known = tuple[int, str]  # the source's number, the manifest's digest


@dataclass
class Lookout:
    """Looks into the sources. What `verify` finds to be bad is not seen again.

    `manifests` are those that were found here, and those that other ranks found in theirs.
    """

    sources: Sequence[Source]
    node: str
    manifests: dict[Known, Manifest] = field(default_factory=dict)
    _paths: dict[tuple[str, int], list[Path]] = field(default_factory=dict)
    _bad: set[Path] = field(default_factory=set)

    def find_manifests(self) -> list[str]:
        """Look for manifests; what was wrong with some."""
        problems: list[str] = []
        for number, source in enumerate(self.sources):
            for path in _manifest_files(RunFolder(source.folder), source.step):
                try:
                    manifest = parse_manifest(path.read_text(encoding="utf-8"))
                except FileNotFoundError:
                    continue
                except (OSError, UnicodeDecodeError) as error:
                    problems.append(f"{path} on {self.node} cannot be read: {error}")
                except BadManifestError as error:
                    problems.append(f"{path} on {self.node}: {error}")
                else:
                    self.manifests[number, manifest.digest] = manifest
        return problems

    def view(self) -> View:
        """Look for the files of all manifests."""
        self._paths.clear()
        problems: list[str] = []
        sightings = tuple(
            self._sighting(number, RunFolder(self.sources[number].folder), manifest, problems)
            for (number, _), manifest in sorted(self.manifests.items(), key=lambda item: item[0])
        )
        return View(sightings=sightings, problems=tuple(problems))

    def paths(self, digest: str, file: int) -> tuple[Path, ...]:
        """Where a file of a checkpoint can be read by this rank, as of the last view."""
        return tuple(self._paths.get((digest, file), ()))

    def verify(self, path: Path, file: ShardFile) -> str | None:
        """Read and hash a file. What is wrong with it, and then it is not seen again; None if it is as written."""
        try:
            if hash_of(path) == file.sha256:
                return None
            problem = "is damaged: its SHA-256 is not the one in the manifest"
        except OSError as error:
            problem = f"cannot be read: {error.strerror or error}"
        self._bad.add(path)
        return f"{path} on {self.node} {problem}"

    def forget(self, digest: str) -> None:
        """A manifest is not what it should be."""
        self.manifests = {key: manifest for key, manifest in self.manifests.items() if key[1] != digest}

    def _sighting(self, number: int, folder: RunFolder, manifest: Manifest, problems: list[str]) -> Sighting:
        seen, bad = [], []
        for index, file in enumerate(manifest.files):
            paths = list(self._whole(folder, manifest.step, file, problems))
            if any(step_folder(folder, place.node, manifest.step) / place.name in self._bad for place in file.places):
                bad.append(index)
            if paths:
                seen.append(index)
                self._paths.setdefault((manifest.digest, index), []).extend(paths)
        return Sighting(
            source=number,
            digest=manifest.digest,
            step=manifest.step,
            generation=manifest.generation,
            files=tuple(seen),
            labels=tuple(f"rank {file.rank}'s file ({_listed(file.places)})" for file in manifest.files),
            bad=tuple(bad),
        )

    def _whole(self, folder: RunFolder, step: int, file: ShardFile, problems: list[str]) -> Iterator[Path]:
        """The places of a file that this rank sees, and that are as long as they should be."""
        for place in file.places:
            path = step_folder(folder, place.node, step) / place.name
            if path in self._bad:
                continue
            try:
                size = path.stat().st_size
            except OSError:
                continue
            if size == file.bytes:
                yield path
            else:
                self._bad.add(path)
                what = f"{size:,} bytes long where {file.bytes:,} were written"
                problems.append(f"{path} on {self.node} is {what}")


def _manifest_files(folder: RunFolder, step: int | None) -> Iterator[Path]:
    """Everything that may be a manifest. Half written ones have other names."""
    found = [(step_of(path.stem), path) for path in folder.checkpoints.glob("step-*.json")]
    copies = folder.path.glob(f"nodes/*/checkpoints/step-*/{MANIFEST_COPY}")
    found += [(step_of(path.parent.name), path) for path in copies]
    for number, path in sorted((number, path) for number, path in found if number is not None):
        if step is None or step == number:
            yield path


def _listed(places: Sequence[Place]) -> str:
    return ", ".join(f"{place.name} on {place.node}" for place in places)
