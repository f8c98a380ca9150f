"""What a rank says of itself: result.json when it ended, serving.json while it answers people."""

from __future__ import annotations

from pydantic import ValidationError

from smolcluster.runtime.runfolder import RankResult, RunFolder, ServingNote, write_atomic


def write_result(folder: RunFolder, result: RankResult) -> None:
    """Write a rank's result.json in its place, whole or not at all."""
    write_atomic(folder.result(result.node, result.rank), result.model_dump_json(by_alias=True, indent=2) + "\n")


def read_result(folder: RunFolder, node: str, rank: int) -> RankResult | None:
    """What the rank said when it ended; None if it said nothing, or nothing whole."""
    try:
        return RankResult.model_validate_json(folder.result(node, rank).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def read_serving(folder: RunFolder, node: str, rank: int) -> ServingNote | None:
    """What the API's rank said last; None if it said nothing, or nothing whole."""
    try:
        return ServingNote.model_validate_json(folder.serving(node, rank).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
