"""job.json and result.json: reading and writing what a supervisor knows of itself and its ranks."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from smolcluster.jobs.types import JobError, JobMissing
from smolcluster.runtime.runfolder import JobState, RankResult, RunFolder, write_atomic


def write_state(folder: RunFolder, state: JobState) -> None:
    """Replace job.json in one step."""
    write_atomic(folder.job_state(state.node), state.model_dump_json(by_alias=True, indent=2) + "\n")


def read_state(folder: RunFolder, node: str) -> JobState:
    """The node's job.json. JobMissing if there is none, JobError if it is not ours."""
    path = folder.job_state(node)
    try:
        return JobState.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise JobMissing(
            f"{node}: there is no run in {folder.path} on this node (no {path.relative_to(folder.path).as_posix()}).\n"
            "    fix: `python -m smolcluster job status --workdir DIR` lists the runs a node knows"
        ) from None
    except ValidationError as error:
        raise JobError(f"{path}: not a job's state of this version of smolcluster: {error}") from error


def write_result(folder: RunFolder, result: RankResult) -> None:
    """Write a rank's result.json in its place."""
    write_atomic(folder.result(result.node, result.rank), result.model_dump_json(by_alias=True, indent=2) + "\n")


def read_result(folder: RunFolder, node: str, rank: int) -> RankResult | None:
    """What the rank said when it ended; None if it said nothing, or nothing whole."""
    path: Path = folder.result(node, rank)
    try:
        return RankResult.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
