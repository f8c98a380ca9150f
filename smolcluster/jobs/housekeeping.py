"""Old runs of a work folder: which may go, and how they go.

The oldest go first, and nothing goes that somebody needs:

    a run that is active, or of which nothing here says that it has ended (it may go on on other machines)
    what `latest` leads to, and what is served when the machine starts
    a run that a kept one was resumed from, or takes files from
    whatever is no run's folder of ours

What playbooks left of machines (setup/, check/, network/: a folder each time) is kept as many times as runs are.

A folder is renamed first and deleted then, so that no half of one is taken for a run; one whose deletion was cut off
goes the next time.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from smolcluster.errors import ConfigError
from smolcluster.jobs.bootservice import BootService
from smolcluster.jobs.nodefile import load_node
from smolcluster.jobs.registry import Registry
from smolcluster.jobs.state import read_state
from smolcluster.jobs.types import ACTIVE_STATES, JobError
from smolcluster.plan.types import NodeConfig
from smolcluster.runtime.generation import GenerationNote
from smolcluster.runtime.runfolder import RunFolder, read_json, run_at

_GOING = ".deleted-"
_DATA = ".data"
# What a playbook about the machines leaves, by its folder; the folders in it are called after the time.
_REPORTS = {"setup": "setup.json", "check": "check.json", "network": "report.json"}
_TIME = re.compile(r"\d{8}-\d{6}\Z")


@dataclass(frozen=True)
class Run:
    """A run's folder in a work folder. `why_kept`: what forbids its deletion, however old; "" where nothing does."""

    path: Path
    began: float
    bytes: int
    why_kept: str = ""

    @property
    def name(self) -> str:
        """The run's id."""
        return self.path.name


@dataclass(frozen=True)
class Freed:
    """What was deleted, by name, and its bytes; and old runs that were kept, with the reasons."""

    runs: tuple[str, ...] = ()
    caches: tuple[str, ...] = ()
    bytes: int = 0
    kept: tuple[tuple[str, str], ...] = ()
    reports: tuple[str, ...] = ()

    def plain(self) -> dict[str, object]:
        """For other programs."""
        return {
            "runs": self.runs,
            "caches": self.caches,
            "bytes": self.bytes,
            "kept": dict(self.kept),
            "reports": self.reports,
        }

    def lines(self) -> list[str]:
        """For a person."""
        said = [f"deleted {name}" for name in (*self.runs, *self.reports, *self.caches)]
        said += [f"kept {name}: {why}" for name, why in self.kept]
        return [*said, f"freed {self.bytes / 1e6:.1f} MB"] if said else []


def runs_in(workdir: Path, keep: int = 0) -> tuple[Run, ...]:
    """Every run's folder in workdir, the newest first; the `keep` newest (0: all) are kept by their age alone."""
    found = sorted(_folders(workdir), key=lambda path: (_began(path), path.name), reverse=True)
    newest = set(found if keep == 0 else found[:keep])
    why = dict.fromkeys(newest, f"one of the {keep} newest" if keep else "")
    for path in found:
        reason = _needed_now(workdir, path)
        if reason:
            why[path] = reason
    _add_needed_by_kept(found, why)
    return tuple(Run(path, _began(path), size_of(path), why.get(path, "")) for path in found)


def prune(workdir: Path, keep: int, caches: bool = False) -> Freed:
    """Delete all but the `keep` newest runs, and reports of each kind (0: none); with `caches` also data and weights
    that no run left needs.
    """
    workdir = workdir.absolute()
    if keep < 1 and not caches:
        return Freed()
    freed, gone, kept, reports = 0, [], [], []
    runs = runs_in(workdir, keep)
    for run in reversed(runs if keep else ()):
        if run.why_kept:
            if not run.why_kept.startswith("one of the"):
                kept.append((run.name, run.why_kept))
        elif _delete(run.path):
            gone.append(run.name)
            freed += run.bytes
    for path in _old_reports(workdir, keep) if keep else ():
        size = size_of(path)
        if _delete(path):
            reports.append(f"{path.parent.name}/{path.name}")
            freed += size
    for half in (half for below in ("", *_REPORTS) for half in (workdir / below).glob(f"{_GOING}*")):
        freed += size_of(half)
        shutil.rmtree(half, ignore_errors=True)
    unused = _unused_data(workdir) if caches else ()
    for path in unused:
        freed += size_of(path)
        _delete(path)
    return Freed(tuple(gone), tuple(f"{_DATA}/{path.name}" for path in unused), freed, tuple(kept), tuple(reports))


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder; what links lead to is not part of it."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _old_reports(workdir: Path, keep: int) -> list[Path]:
    """Of each kind all but the newest, the oldest first."""
    found = []
    for kind, report in _REPORTS.items():
        times = [path.parent for path in workdir.glob(f"{kind}/*/{report}") if _TIME.match(path.parent.name)]
        found += sorted(path for path in times if not path.is_symlink())[:-keep]
    return found


def _delete(folder: Path) -> bool:
    """Whether this process deleted it. OSError if it cannot be renamed."""
    going = folder.with_name(f"{_GOING}{folder.name}")
    if going.exists():
        shutil.rmtree(going)
    try:
        folder.rename(going)
    except FileNotFoundError:  # somebody else was quicker
        return False
    shutil.rmtree(going)
    return True


def _folders(workdir: Path) -> list[Path]:
    """Folders that hold what a run's folder does from its beginning. `latest` is a link to one of them."""
    candidates = (path.parent for path in workdir.absolute().glob("*/plan.json"))
    return [path for path in candidates if not path.is_symlink() and path.name[0] != "." and _is_run(path)]


def _is_run(path: Path) -> bool:
    try:
        plan = read_json(RunFolder(path).plan)
    except (OSError, ValueError):
        return False
    ours = isinstance(plan.get("ranks"), list) and {"schema", "cluster", "world_size"} <= set(plan)
    return ours and (path / "secret").is_file()


def _began(path: Path) -> float:
    return RunFolder(path).plan.stat().st_mtime


def _needed_now(workdir: Path, path: Path) -> str:
    if run_at(workdir / "latest") == path.resolve():
        return "runs/latest leads to it"
    for note in workdir.glob(".boot/*.json"):
        with contextlib.suppress(OSError, ValidationError):
            if Path(BootService.model_validate_json(note.read_bytes()).run_dir).resolve() == path.resolve():
                return "it is served when the machine starts"
    for entry in workdir.glob(".active/*.json"):
        try:
            active = Registry(workdir, entry.stem).active()
        except JobError:
            return f"{entry} cannot be read"
        if active is not None and Path(active.run_dir).resolve() == path.resolve():
            return "it is active"
    return (
        "" if _has_ended(path) else "nothing here says that it has ended (ansible-playbook collect.yml asks the nodes)"
    )


def _has_ended(path: Path) -> bool:
    """Whether every part of the run that is known here has: a node's own parts, or on the controller the collected."""
    folder = RunFolder(path)
    parts = [state.parent.name for state in path.glob("nodes/*/job.json")]
    for node in parts:
        try:
            state = read_state(folder, node).state
        except JobError:
            return False
        if state in ACTIVE_STATES and not _is_own(path, node):
            return False
    return bool(parts) or folder.summary.is_file()


def _is_own(path: Path, node: str) -> bool:
    """Whether a node's part was made here and not collected: then the registry, which was asked, knows if it lives."""
    config = _node_config(path, node)
    return config is not None and Path(config.run_dir).resolve() == path.resolve()


def _node_config(path: Path, node: str) -> NodeConfig | None:
    try:
        return load_node(path / "nodes" / node / "node.yaml")
    except ConfigError:
        return None


def _add_needed_by_kept(found: list[Path], why: dict[Path, str]) -> None:
    """Keep what the kept ones need, and what those need in turn."""
    by_name = {path.name: path for path in found}
    waiting = list(why)
    while waiting:
        needing = waiting.pop()
        for name in _named_by(needing):
            needed = by_name.get(name)
            if needed is not None and needed not in why:
                why[needed] = f"{needing.name} was resumed from it, or takes files from it"
                waiting.append(needed)


def _named_by(path: Path) -> set[str]:
    """The names of runs that a run's own files name: where it was resumed from, whose model or weights it takes."""
    names: set[str] = set()
    for config in _configs(path):
        for there in (config.resume_from, config.init_dir, config.model_dir):
            names |= set(Path(there).parts) if there else set()
    for note in path.glob("nodes/*/rank-*/generation.json"):
        with contextlib.suppress(OSError, ValidationError):
            origin = GenerationNote.model_validate_json(note.read_bytes()).origin
            names |= {origin.run_id} if origin is not None else set()
    with contextlib.suppress(OSError, ValueError):
        names.add(str(read_json(RunFolder(path).summary).get("resumed_from", "")))
    with contextlib.suppress(OSError):
        # A model that is served is linked to.
        names |= set((path / "model").readlink().parts)
    return names - {path.name}


def _configs(path: Path) -> Iterable[NodeConfig]:
    for file in path.glob("nodes/*/node.yaml"):
        config = _node_config(path, file.parent.name)
        if config is not None:
            yield config


def _unused_data(workdir: Path) -> tuple[Path, ...]:
    """Data and weights that were sent here, and that no run that is still there uses."""
    used = {
        Path(there).name
        for path in _folders(workdir)
        for config in _configs(path)
        for there in (config.data_dir, config.init_dir, config.model_dir, config.tablet_dir)
        if there
    }
    # Half-copied ones (.part) belong to whoever is copying.
    every = [path for path in (workdir / _DATA).glob("*") if path.is_dir() and path.suffix != ".part"]
    return tuple(sorted(path for path in every if path.name not in used and path.name[0] != "."))
