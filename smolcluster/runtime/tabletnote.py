"""tablet.json: what the rank that hands over to a tablet says of it now, and the key and link by which it comes in."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from smolcluster.files import read_replaced
from smolcluster.runtime.runfolder import RunFolder, write_atomic
from smolcluster.spec.base import Frozen
from smolcluster.spec.cluster import App

TABLET_SCHEMA = 1
State = Literal["waiting", "loading", "connected"]
_KEY = b"smolcluster tablet key"


class TabletNote(Frozen):
    """Whole and atomic at every change, and every few seconds while the tablet is waited for.

    `address`: the app's, or the page's, which holds no key. `left_s`: how long it is waited for still; None: as long as
    the run lasts. `came`: it has been connected in this run. `reason`: why it is not connected, as far as that is
    known. `device` and `format`: what it said of itself when it was ready.
    """

    schema_: int = Field(default=TABLET_SCHEMA, alias="schema", serialization_alias="schema")
    time: float
    run: str
    tablet: str
    app: App
    state: State
    address: str
    layers: str
    left_s: float | None = None
    came: bool = False
    reason: str = ""
    device: str = ""
    format: str = ""


def tablet_key(secret: bytes) -> bytes:
    """The key of a run's tablets, 32 bytes, from the run's secret: who takes it cannot join as a rank."""
    return hmac.new(secret, _KEY, hashlib.sha256).digest()


def tablet_link(note: TabletNote, key: bytes) -> str:
    """What a tablet opens to come in: the page's URL, or the app's own; the key is in the part no server is sent."""
    where = note.address if note.app == "browser" else f"smolcluster://{note.address}/"
    return f"{where}#run={note.run}&key={key.hex()}"


def write_tablet(folder: RunFolder, node: str, rank: int, note: TabletNote) -> None:
    """Put it in its place, whole or not at all. OSError."""
    write_atomic(folder.tablet(node, rank), note.model_dump_json(by_alias=True, indent=2) + "\n")


def read_tablet(folder: RunFolder, node: str, rank: int) -> TabletNote | None:
    """What that rank said last; None where it said nothing, or nothing that can be read."""
    path: Path = folder.tablet(node, rank)
    try:
        return TabletNote.model_validate_json(read_replaced(path))
    except (OSError, ValidationError):
        return None


def read_tablets(folder: RunFolder, nodes: Mapping[int, str]) -> tuple[TabletNote, ...]:
    """What those ranks said last, each of its node, as far as they said anything."""
    notes = [read_tablet(folder, node, rank) for rank, node in nodes.items()]
    return tuple(note for note in notes if note is not None)
