"""What travels between the controller and a node, on the node's side: what a run needs there, and what it left.

There: `open_parcel` makes a folder beside the place, or in it, and says which files are missing; the controller puts
them into it over the connection; `close_parcel` gives them their names. Nobody meets a file that is not whole, nor a
folder named by the hash of its content that is not, and a secret is never where others may read it. Back: `pack` there,
`unpack` here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from smolcluster.files import hash_of, move_over
from smolcluster.jobs.types import JobError
from smolcluster.runtime.access import only_for_user
from smolcluster.spec.base import Frozen

# Of the node itself: the token of its control link, and what only means something there.
_STAYS = frozenset({"control.json", "endpoint.json", "node.yaml"})


class File(Frozen):
    """A file that is brought: its name in the folder (with /), its mode, its SHA-256 where that is compared."""

    name: str
    mode: int
    hash: str = ""


class Step(Frozen):
    """The options of the module `smolcluster_tree`. Which of them a state needs is the module's to ask.

    `whole`: the folder's name says what is in it, so it gets that name when all is in it, and is complete if it is
    there. `keep`: files that are there already stay as they are.
    """

    state: Literal["packed", "opened", "closed"]
    run_dir: str
    node: str
    checkpoints: bool = False
    files: tuple[File, ...] = ()
    whole: bool = False
    keep: bool = False


def step(asked: Step) -> dict[str, Any]:
    """Do what `state` asks; the module's result. SmolError, OSError and tarfile's errors are the caller's."""
    folder = Path(asked.run_dir).expanduser()
    if asked.state == "packed":
        archive, count = pack(folder, asked.node, asked.checkpoints)
        return {"changed": True, "archive": str(archive), "files": count}
    if asked.state == "opened":
        part, missing = open_parcel(folder, asked)
        return {"changed": bool(missing), "part": str(part), "missing": missing}
    return {"changed": True, "files": close_parcel(folder, asked)}


def open_parcel(folder: Path, asked: Step) -> tuple[Path, list[str]]:
    """Make the folder for what is to come, and name the files that are missing: not those that came the last time."""
    part = _part(folder, asked)
    names = [_within(file.name) for file in asked.files]
    if asked.whole and folder.exists():
        return part, []
    if not asked.whole:
        folder.mkdir(parents=True, exist_ok=True)
        only_for_user(folder)
        names = [name for name in names if not (asked.keep and (folder / name).exists())]
    if not names:
        return part, []
    part.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in names:
        (part / name).parent.mkdir(parents=True, exist_ok=True)
    hashes = {file.name: file.hash for file in asked.files if file.hash}
    return part, [name for name in names if not _is_here(part / name, hashes.get(name, ""))]


def close_parcel(folder: Path, asked: Step) -> int:
    """Give what has come its modes and names; how many files. JobError for one that came damaged, or not at all."""
    part = _part(folder, asked)
    count = 0
    for file in asked.files:
        path = part / _within(file.name)
        if not path.exists():
            continue
        if file.hash and hash_of(path) != file.hash:
            path.unlink()
            raise JobError(f"{path} came damaged; start the playbook again")
        path.chmod(file.mode)
        count += 1
        if not asked.whole:
            target = folder / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            move_over(path, target)
    if not asked.whole:
        shutil.rmtree(part, ignore_errors=True)
    elif count == len(asked.files):
        part.chmod(0o755)
        try:
            part.rename(folder)
        except OSError:
            if not folder.exists():
                raise
            shutil.rmtree(part)  # somebody else was quicker; the name says that it is the same
    else:
        raise JobError(f"{folder}: {len(asked.files) - count} of its files did not come; start the playbook again")
    return count


def pack(run_dir: Path, node: str, checkpoints: bool = False) -> tuple[Path, int]:
    """Archive nodes/<node>, model/ and the manifests of a run folder. A file that grows is taken as it stands."""
    if not (run_dir / "nodes" / node).is_dir():
        raise JobError(f"there is nothing of this run: no {run_dir / 'nodes' / node}")
    handle, name = tempfile.mkstemp(prefix=f"smolcluster-{node}-", suffix=".tar.gz")
    count = 0
    with os.fdopen(handle, "wb") as file, tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as archive:
        trees = [run_dir / "nodes" / node, run_dir / "model", run_dir / "checkpoints"]
        shards = run_dir / "nodes" / node / "checkpoints"
        for path in sorted(path for tree in trees for path in tree.rglob("*")):
            if path.is_symlink() or path.is_dir() or path.name in _STAYS or path.name.startswith("."):
                continue
            if shards in path.parents and not checkpoints:
                continue
            # A run that goes on removes old checkpoints meanwhile: what is gone is not packed.
            with contextlib.suppress(FileNotFoundError), path.open("rb") as source:
                info = archive.gettarinfo(arcname=path.relative_to(run_dir).as_posix(), fileobj=source)
                archive.addfile(info, source)
                count += 1
    return Path(name), count


def unpack(run_dir: Path, archive: Path) -> int:
    """Put an archive's files into a run folder. tarfile's data filter refuses paths and links that lead out of it."""
    run_dir.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".collect-", dir=run_dir))
    count = 0
    try:
        with tarfile.open(archive, "r:gz") as packed:
            packed.extractall(scratch, filter="data")
        for path in sorted(scratch.rglob("*")):
            if path.is_file():
                target = run_dir / path.relative_to(scratch)
                target.parent.mkdir(parents=True, exist_ok=True)
                move_over(path, target)
                count += 1
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return count


def files_of(folder: Path, names: Sequence[str] = (), hashed: bool = False) -> tuple[File, ...]:
    """A folder's files as they are brought: those of these names, or all of them. OSError where one is missing."""
    chosen = names or [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    found = []
    for name in chosen:
        path = folder / name
        found.append(File(name=name, mode=path.stat().st_mode & 0o777, hash=hash_of(path) if hashed else ""))
    return tuple(found)


def _part(folder: Path, asked: Step) -> Path:
    """Where files wait until they are whole: on the same disk, and a machine's own where several share a folder."""
    name = f"part-{asked.node}"
    return folder.with_name(f"{folder.name}.{name}") if asked.whole else folder / f".{name}"


def _within(name: str) -> str:
    """A name that leads into the folder. JobError for any other."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or ":" in name or "\\" in name or not path.parts:
        raise JobError(f"{name!r} is no name of a file in a folder")
    return name


def _is_here(path: Path, wanted: str) -> bool:
    return bool(wanted) and path.is_file() and hash_of(path) == wanted
