"""What a rank says of itself: result.json when it ended, serving.json while it answers people, and finished.json, what
it will say if nobody needs it any more.

The last rank to learn that a run is done cannot be told so for certain: whoever was to tell it may die. So a rank notes
that its work is done (`keep_finished`) before it says so to the others. Started again after that, it looks for them: if
they need it they come too, and if nobody comes they were done (`read_finished`).
"""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import ValidationError

from smolcluster.files import explain_with_path, read_replaced
from smolcluster.runtime.runfolder import RankResult, RunFolder, ServingNote, write_atomic

log = logging.getLogger("smolcluster.worker")


def write_result(folder: RunFolder, result: RankResult) -> None:
    """Write a rank's result.json in its place, whole or not at all."""
    _write(folder.result(result.node, result.rank), result)


def leave_result(folder: RunFolder, result: RankResult) -> None:
    """`write_result` as a rank's last act: where it cannot be written the log has it, and the supervisor a word for
    ranks that left none.
    """
    try:
        write_result(folder, result)
    except OSError as error:
        log.error("no result.json: %s", explain_with_path(error))


def read_result(folder: RunFolder, node: str, rank: int) -> RankResult | None:
    """What the rank said when it ended; None if it said nothing, or nothing whole."""
    return _read(folder.result(node, rank))


def keep_finished(folder: RunFolder, result: RankResult) -> None:
    """Note that a rank's work is done, and everybody's."""
    _write(folder.finished(result.node, result.rank), result)


def read_finished(folder: RunFolder, node: str, rank: int) -> RankResult | None:
    """That note; None where there is none."""
    return _read(folder.finished(node, rank))


def forget_finished(folder: RunFolder, node: str, rank: int) -> None:
    """The rank works again: the others needed it."""
    folder.finished(node, rank).unlink(missing_ok=True)


def _write(path: Path, result: RankResult) -> None:
    write_atomic(path, result.model_dump_json(by_alias=True, indent=2) + "\n")


def _read(path: Path) -> RankResult | None:
    try:
        return RankResult.model_validate_json(read_replaced(path))
    except (FileNotFoundError, ValidationError):
        return None


def read_serving(folder: RunFolder, node: str, rank: int) -> ServingNote | None:
    """What the API's rank said last; None if it said nothing, or nothing whole."""
    try:
        return ServingNote.model_validate_json(read_replaced(folder.serving(node, rank)))
    except (FileNotFoundError, ValidationError):
        return None
