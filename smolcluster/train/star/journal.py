"""The server's ledger on the disk, as of its last change: what a server that was killed had applied is known to its
next process, which goes on from a checkpoint before that.

One small file, written over in one call before the change is told to anybody. A process that is killed leaves it whole;
after a power cut it may be torn or old, and then the account starts from the checkpoint's.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from pathlib import Path

from pydantic import Field, ValidationError

from smolcluster.runtime.checkpoint.manifest import StarNote
from smolcluster.runtime.runfolder import GradientAccount
from smolcluster.spec.base import Frozen
from smolcluster.strategies.star.leases import Leases
from smolcluster.strategies.star.ledger import Ledger, taken_up

log = logging.getLogger(__name__)

JOURNAL_SCHEMA = 1


class Entry(Frozen):
    """What stands in the file."""

    schema_: int = Field(default=JOURNAL_SCHEMA, alias="schema", serialization_alias="schema")
    gradients: GradientAccount
    seen: dict[int, tuple[int, int]]


class Journal:
    """The file of one server. A context manager."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.before = _read(path)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        self._longest = os.fstat(self._file).st_size

    def write(self, account: GradientAccount, ledger: Ledger) -> None:
        """Replace what stands there."""
        text = Entry(gradients=account, seen=ledger.seen).model_dump_json(by_alias=True).encode()
        self._longest = max(self._longest, len(text) + 1)
        os.lseek(self._file, 0, os.SEEK_SET)
        os.write(self._file, text.ljust(self._longest - 1) + b"\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def restored(note: StarNote | None, journal: Journal, ours: bool, leases: Leases) -> Ledger:
    """The ledger to go on with from a checkpoint, None: from the beginning. `ours`: the checkpoint is this run's own,
    or there is none. Another run's gradients are not this one's; the journal always is. The count of `leases` goes on
    too.
    """
    checkpoint = ledger_of(note.gradients, note.seen) if note is not None and ours else Ledger()
    before = journal.before
    if before is None or before.gradients.pushed < checkpoint.pushed:  # older: a power cut took the newest entries
        return taken_up(checkpoint, checkpoint)
    leases.take_up(before.gradients.samples_leased)
    return taken_up(ledger_of(before.gradients, before.seen), checkpoint)


def ledger_of(account: GradientAccount, seen: dict[int, tuple[int, int]]) -> Ledger:
    """The ledger that an account was made of."""
    return Ledger(
        pushed=account.pushed,
        applied=account.applied,
        late=account.late,
        rolled_back=account.rolled_back,
        duplicates=account.duplicates,
        pending=account.pending,
        refused=Counter(account.refused),
        seen=dict(seen),
    )


def _read(path: Path) -> Entry | None:
    try:
        value = json.loads(path.read_bytes())
        return Entry.model_validate(value)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, ValidationError):
        log.warning("%s cannot be read: the account of gradients starts from the checkpoint's", path)
        return None
