"""Exported stages that the cluster hands out: a listing with every file's hash, and files in pieces.

A tablet asks; a path that it says is looked up in the listing only, never in the file system. Hashing happens once,
before any tablet is there: a gigabyte would be a long silence later.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import Field, ValidationError

from smolcluster.errors import InputError, Problem, ProtocolError
from smolcluster.files import hash_of
from smolcluster.spec.base import Frozen
from smolcluster.tablet.kinds import MOST_LISTING, MOST_PIECE
from smolcluster.tablet.manifest import MANIFEST, Manifest, read_manifest
from smolcluster.tablet.messages import Fetch, Piece

_MOST_FILES = 1000


class NoFileError(ProtocolError):
    """What is asked for is in no package that is handed out."""


class File(Frozen):
    """One file: its path from the package's folder on, with slashes."""

    path: str = Field(min_length=1, max_length=1000)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class Listing(Frozen):
    """All of a package: `stage` is its stage.json, which is among the files too."""

    files: tuple[File, ...] = Field(max_length=_MOST_FILES)
    stage: Manifest

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(file.size for file in self.files)

    def to_json(self) -> bytes:
        """As it travels."""
        raw = self.model_dump(by_alias=True)
        return json.dumps(raw, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


class Package:
    """One export's folder, as `export` made it. InputError for one that is none of ours."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        manifest = read_manifest(folder)
        paths = [folder / MANIFEST, *sorted(_below(folder / manifest.file))]
        self.listing = Listing(files=tuple(self._file(path) for path in paths), stage=manifest)
        self._index = self.listing.to_json()
        if len(self._index) > MOST_LISTING:
            what = f"has {len(paths)} files, which no listing holds"
            raise InputError([Problem(str(folder), 0, "", what, "export the stage again")])
        self._files = {file.path: file for file in self.listing.files}

    def piece(self, fetch: Fetch) -> Piece:
        """What a tablet asked for, at most MOST_PIECE bytes. NoFileError; ProtocolError for what is beyond the end."""
        if not fetch.path:
            return _piece(fetch, len(self._index), self._index[fetch.offset : fetch.offset + _most(fetch)])
        file = self._files.get(fetch.path)
        if file is None:
            raise NoFileError(f"no file {fetch.path!r:.200} is in the package")
        if fetch.offset > file.size:
            return _piece(fetch, file.size, b"")
        try:
            with (self.folder / file.path).open("rb") as opened:
                opened.seek(fetch.offset)
                data = opened.read(_most(fetch))
        except OSError as error:
            raise NoFileError(f"{file.path} cannot be read any more: {error.strerror or error}") from error
        if len(data) != min(_most(fetch), file.size - fetch.offset):
            raise NoFileError(f"{file.path} has changed since the cluster started")
        return _piece(fetch, file.size, data)

    def _file(self, path: Path) -> File:
        name = path.relative_to(self.folder).as_posix()
        return File(path=name, sha256=hash_of(path), size=path.stat().st_size)


class Packages:
    """Packages by format. InputError for a folder that is no export of ours."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._packages = {name: Package(folder) for name, folder in folders.items()}
        for name, package in self._packages.items():
            if package.listing.stage.format != name:
                raise ValueError(f"{package.folder} is a package for {package.listing.stage.format}, not for {name}")

    @property
    def hashes(self) -> dict[str, str]:
        """By format, as ASSIGN has them."""
        return {name: package.listing.stage.hash for name, package in self._packages.items()}

    def delivery(self) -> Delivery:
        """To one connection."""
        return Delivery(self._packages)


class Delivery:
    """What one connection is given."""

    def __init__(self, packages: Mapping[str, Package]) -> None:
        self._packages = packages
        self._given: dict[tuple[str, str], int] = {}  # of each file the bytes up to which it went

    def answer(self, fetch: Fetch) -> tuple[Piece, bool]:
        """The piece, and whether anything in it is new: who asks for the same again and again gets no further."""
        package = self._packages.get(fetch.format)
        if package is None:
            has = " and ".join(sorted(self._packages)) or "none"
            raise NoFileError(f"no package for {fetch.format!r:.50} is handed out here, but {has}")
        piece = package.piece(fetch)
        key, end = (fetch.format, fetch.path), piece.offset + len(piece.data)
        further = end > self._given.get(key, 0)
        if further:
            self._given[key] = end
        return piece, further


def read_listing(data: bytes, who: str) -> Listing:
    """The listing that came from `who`. ProtocolError for what is none, or would lead out of a folder."""
    try:
        listing = Listing.model_validate_json(data)
    except (ValidationError, RecursionError) as error:
        raise ProtocolError(f"{who} sent a listing that cannot be read: {str(error)[:500]}") from error
    names = [file.path for file in listing.files]
    if len(set(map(str.casefold, names))) != len(names) or not all(map(_is_plain, names)) or MANIFEST not in names:
        raise ProtocolError(f"{who} sent a listing whose paths are none")
    return listing


def _is_plain(path: str) -> bool:
    """Whether it leads to a place in the folder and nowhere else, on every system."""
    parts = path.split("/")
    return path.isprintable() and not any(part in ("", ".", "..") or set(part) & set('\\:*?"<>|') for part in parts)


def _below(path: Path) -> Iterator[Path]:
    """The file itself, or all files of a folder. InputError for a link: what it leads to is nobody's to hand out."""
    if path.is_symlink():
        raise InputError([Problem(str(path), 0, "", "is a link, and no file of a package", "export the stage again")])
    if path.is_dir():
        for inner in path.iterdir():
            yield from _below(inner)
    else:
        yield path


def _most(fetch: Fetch) -> int:
    return min(fetch.most, MOST_PIECE)


def _piece(fetch: Fetch, size: int, data: bytes) -> Piece:
    if fetch.offset > size or not fetch.most:
        raise ProtocolError(f"asked for {fetch.most} bytes at {fetch.offset} of a file of {size}")
    return Piece(fetch.request, fetch.offset, size, data)
