"""Who is active on this node: <workdir>/.active/<node>.json, so that two runs never share a machine by accident.

The file is looked at and changed only under a lock of the operating system, which dies with its holder: of two
starters exactly one claims the node. A claim is made by the starter and taken over by the supervisor it starts, which
proves with the claim's nonce that it is the one; a starter that dies in between leaves a claim nobody is alive for,
which is stale.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from smolcluster.files import read_replaced
from smolcluster.jobs.identity import ProcessId, alive, end, identify
from smolcluster.jobs.types import JobError, JobRefused
from smolcluster.locks import locked
from smolcluster.runtime.runfolder import write_atomic
from smolcluster.spec.base import Frozen

_LOCK_DEADLINE_S = 10.0


class Active(Frozen):
    """The run that holds a node: its owner (starter, later supervisor) and the ranks it started."""

    run_id: str
    run_dir: str
    nonce: str
    owner: ProcessId
    # False while the owner is a starter: it is not ours to kill, only its claim can be withdrawn.
    supervised: bool = False
    ranks: dict[int, ProcessId] = Field(default_factory=dict)


@dataclass(frozen=True)
class Registry:
    """The registry entry of one node in one work folder."""

    workdir: Path
    node: str

    @classmethod
    def of_run(cls, run_dir: str | Path, node: str) -> Registry:
        """The registry a run folder belongs to: its parent is the work folder, also for a link such as runs/latest."""
        return cls(Path(run_dir).resolve().parent, node)

    @property
    def path(self) -> Path:
        """The entry's file."""
        return self.workdir / ".active" / f"{self.node}.json"

    def active(self) -> Active | None:
        """The run whose owner is alive now, if any. Changes nothing."""
        entry = self._read()
        return entry if entry is not None and alive(entry.owner) else None

    def claim(self, run_id: str, run_dir: str | Path) -> Active:
        """Claim the node for this process. JobRefused if a living run has it; what a dead one left is ended first."""
        with self._locked():
            entry = self._read()
            if entry is not None:
                if alive(entry.owner):
                    raise JobRefused(self.node, entry.run_id, str(self.workdir))
                end_ranks(entry)
            claim = Active(run_id=run_id, run_dir=_real(run_dir), nonce=secrets.token_hex(16), owner=_me())
            self._write(claim)
            return claim

    def take_over(self, run_dir: str | Path, nonce: str) -> Active:
        """Become the owner of a claim that a starter made for this process. JobError if it is no longer there."""
        with self._locked():
            entry = self._read()
            if entry is None or entry.nonce != nonce or entry.run_dir != _real(run_dir):
                raise JobError(f"{self.node}: the claim this supervisor was started with is gone; nothing was started")
            taken = entry.model_copy(update={"owner": _me(), "supervised": True})
            self._write(taken)
            return taken

    def record_ranks(self, claim: Active, ranks: dict[int, ProcessId]) -> Active:
        """Note which processes belong to the run, so that they can be ended should their supervisor be killed."""
        with self._locked():
            updated = claim.model_copy(update={"ranks": ranks})
            self._write(updated)
            return updated

    def withdraw(self, claim: Active) -> bool:
        """Take a starter's claim away, so that its supervisor cannot take it over. False if it has already."""
        with self._locked():
            entry = self._read()
            if entry is None or entry.nonce != claim.nonce:
                return True
            if entry.supervised:
                return False
            self.path.unlink(missing_ok=True)
            return True

    def release(self, claim: Active) -> None:
        """Give the node free if this claim still holds it."""
        with self._locked():
            entry = self._read()
            if entry is not None and entry.nonce == claim.nonce:
                self.path.unlink(missing_ok=True)

    def clear(self, run_dir: str | Path) -> None:
        """Remove what a dead run left: end ranks of it that still run, then its entry. A living one is left alone."""
        with self._locked():
            entry = self._read()
            if entry is not None and entry.run_dir == _real(run_dir) and not alive(entry.owner):
                end_ranks(entry)
                self.path.unlink(missing_ok=True)

    def active_in(self, run_dir: str | Path) -> Active | None:
        """The living run, if it is the one in that folder."""
        active = self.active()
        return active if active is not None and active.run_dir == _real(run_dir) else None

    def _read(self) -> Active | None:
        try:
            return Active.model_validate_json(read_replaced(self.path))
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise JobError(
                f"{self.path}: not a registry entry of this version of smolcluster ({error.error_count()} problems).\n"
                "    fix: if no run is active on this node, delete the file"
            ) from error

    def _write(self, entry: Active) -> None:
        write_atomic(self.path, entry.model_dump_json(indent=2) + "\n", mode=0o600)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(self.path.with_suffix(".lock"), _LOCK_DEADLINE_S))
            except TimeoutError as error:
                raise JobError(f"{self.path}: {error}") from error
            yield


def end_ranks(entry: Active) -> None:
    """End ranks of a run whose supervisor is dead. They end by themselves in time; a wedged one does not."""
    for who in entry.ranks.values():
        end(who, grace_s=0.0)


def _real(run_dir: str | Path) -> str:
    return str(Path(run_dir).resolve())


def _me() -> ProcessId:
    me = identify(os.getpid())
    assert me is not None, "this process runs"
    return me
