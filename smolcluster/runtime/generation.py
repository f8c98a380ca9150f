"""Which start of the run's ranks a rank was in last. Rank 0 counts the starts, all others take part in a later one.

The note lies in the rank's own folder, so that nobody has to ask anybody else: whoever is started again, by its own
supervisor or by a new one, goes on where it left off.
"""

from __future__ import annotations

from pydantic import Field, ValidationError

from smolcluster.files import read_replaced
from smolcluster.runtime.runfolder import RunFolder, write_atomic
from smolcluster.spec.base import Frozen

GENERATION_SCHEMA = 1


class OpenList(Frozen):
    """A list of members that the rank offered or accepted, and does not know yet whether it counts (comm/quorum.py)."""

    generation: int = Field(ge=0)
    members: tuple[int, ...] = Field(min_length=1)


class Origin(Frozen):
    """The earlier run, and its step, whose checkpoint a run went on from."""

    run_id: str
    step: int = Field(ge=0)


class GenerationNote(Frozen):
    """generation.json of a rank. `step`: the step that generation began after, None until the rank knows. `origin`: of
    a run that was resumed; it stays through all generations.

    `members`: of an elastic run, the ranks of the whole plan that take part in it; else empty. `pending`: later lists
    that are open.
    """

    schema_: int = Field(default=GENERATION_SCHEMA, alias="schema", serialization_alias="schema")
    generation: int = Field(ge=0)
    step: int | None = Field(default=None, ge=0)
    members: tuple[int, ...] = ()
    pending: tuple[OpenList, ...] = ()
    origin: Origin | None = None


def read_generation(folder: RunFolder, node: str, rank: int) -> GenerationNote | None:
    """The rank's note; None before its first start, or where the note cannot be read."""
    try:
        return GenerationNote.model_validate_json(read_replaced(folder.generation(node, rank)))
    except (OSError, ValidationError):
        return None


def write_generation(folder: RunFolder, node: str, rank: int, note: GenerationNote) -> None:
    """Replace the rank's note in one step, but for its origin where the new one names none."""
    known = read_generation(folder, node, rank) if note.origin is None else None
    if known is not None:
        note = note.model_copy(update={"origin": known.origin})
    write_atomic(folder.generation(node, rank), note.model_dump_json(by_alias=True) + "\n")


def next_generation(folder: RunFolder, node: str, rank: int, first: int) -> int:
    """The number of the start that begins now, for the rank that counts: above all its earlier ones, at least `first`.

    It is noted before anybody hears of it.
    """
    last = read_generation(folder, node, rank)
    number = first if last is None else max(first, last.generation + 1)
    write_generation(folder, node, rank, GenerationNote(generation=number))
    return number


def last_generation(folder: RunFolder, node: str, rank: int, first: int) -> int:
    """The last generation the rank was in; one below `first` before it was in any."""
    last = read_generation(folder, node, rank)
    return first - 1 if last is None else last.generation


def note_step(folder: RunFolder, node: str, rank: int, step: int, origin: Origin | None = None) -> None:
    """Add to the rank's note after which step its generation began, and of which earlier run that was."""
    known = read_generation(folder, node, rank) or GenerationNote(generation=0)
    write_generation(folder, node, rank, known.model_copy(update={"step": step, "origin": origin}))
