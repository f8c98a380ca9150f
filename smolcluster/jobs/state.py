"""job.json: reading and writing what a supervisor knows of itself."""

from __future__ import annotations

from pydantic import ValidationError

from smolcluster.files import read_replaced
from smolcluster.jobs.types import JobError, JobMissing
from smolcluster.runtime.generation import read_generation
from smolcluster.runtime.runfolder import JobState, RunFolder, write_atomic


def told_by_ranks(folder: RunFolder, state: JobState) -> JobState:
    """The state with what only the ranks know: the generation they are in, and the step it began after."""
    notes = [read_generation(folder, state.node, rank) for rank in state.ranks]
    newest = max((note.generation for note in notes if note is not None), default=state.generation)
    steps = [note.step for note in notes if note is not None and note.generation == newest and note.step is not None]
    return state.model_copy(update={"generation": newest, "resumed_step": max(steps, default=None)})


def earlier_state(folder: RunFolder, run_id: str, node: str) -> JobState | None:
    """What an earlier start of this very run left here; None before the first."""
    try:
        state = read_state(folder, node)
    except JobError:
        return None
    return state if state.run_id == run_id else None


def write_state(folder: RunFolder, state: JobState) -> None:
    """Replace job.json in one step."""
    write_atomic(folder.job_state(state.node), state.model_dump_json(by_alias=True, indent=2) + "\n")


def read_state(folder: RunFolder, node: str) -> JobState:
    """The node's job.json. JobMissing if there is none, JobError if it is not ours."""
    path = folder.job_state(node)
    try:
        return JobState.model_validate_json(read_replaced(path))
    except FileNotFoundError:
        raise JobMissing(
            f"{node}: there is no run in {folder.path} on this node (no {path.relative_to(folder.path).as_posix()}).\n"
            "    fix: `python -m smolcluster job status --workdir DIR` lists the runs a node knows"
        ) from None
    except ValidationError as error:
        raise JobError(f"{path}: not a job's state of this version of smolcluster: {error}") from error
