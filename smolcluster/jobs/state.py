"""job.json: reading and writing what a supervisor knows of itself."""

from __future__ import annotations

from pydantic import ValidationError

from smolcluster.jobs.types import JobError, JobMissing
from smolcluster.runtime.runfolder import JobState, RunFolder, write_atomic


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
