"""How a rank enters a generation of its run: which one that is, who else takes part, how to join them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from smolcluster.comm.config import JOIN_S, GroupConfig, read_secret
from smolcluster.comm.muster import Ground, muster
from smolcluster.comm.quorum import Entry, Muster
from smolcluster.comm.tls import TlsContexts
from smolcluster.plan.elastic import plan_for
from smolcluster.plan.types import NodeConfig
from smolcluster.runtime.context import RunContext
from smolcluster.runtime.generation import (
    GenerationNote,
    OpenList,
    last_generation,
    next_generation,
    read_generation,
    write_generation,
)


def enter(context: RunContext, config: NodeConfig) -> tuple[GroupConfig | None, RunContext]:
    """The group to open, None for a rank that is alone, and the context of the generation as far as it is known now.

    An elastic run first asks who is there. ConfigError, PeerError.
    """
    folder, node, seat = context.folder, context.me.node, context.rank
    first = config.generation
    secret = b""
    if context.world_size > 1:
        secret = read_secret(Path(config.secret_file), "secret_file", "run the playbook again")
    if context.run.recovery.elastic and context.world_size > 1 and context.plan.shape != "STAR":
        agreed = _muster(context, config, secret)
        plan = plan_for(context.plan, agreed.members)
        me = plan.ranks[agreed.members.index(seat)]
        context = replace(context, plan=plan, me=me, home=seat, generation=agreed.generation)
        number, after = agreed.generation, None
    elif seat == 0:
        number, after = next_generation(folder, node, seat, first), None
        context = replace(context, generation=number)
    else:
        number, after = first, last_generation(folder, node, seat, first)
        if context.plan.shape == "STAR" and after >= first:  # the server's goes on while workers start again
            after -= 1
    if context.world_size == 1:
        return None, context

    def entered(found: int) -> None:
        if after is not None:
            write_generation(folder, node, seat, GenerationNote(generation=found))

    group = GroupConfig.from_plan(
        context.plan,
        context.me,
        run_id=config.run_id,
        generation=number,
        secret=secret,
        endpoint_file=folder.endpoint(context.node_of(0)),
        tls=TlsContexts.of_node(config.certificates, context.me, context.plan.ca),
        after=after,
        entered=entered,
    )
    return group, context


def _muster(context: RunContext, config: NodeConfig, secret: bytes) -> Muster:
    folder, node, seat = context.folder, context.me.node, context.rank
    known = read_generation(folder, node, seat)
    entry = entry_of(known, seat, context.world_size, config.generation)
    # A port may be held by this rank's last process for a moment, whichever generation this will be.
    group = GroupConfig.from_plan(
        context.plan,
        context.me,
        run_id=config.run_id,
        generation=entry.generation + 1,
        secret=secret,
        endpoint_file=None,
        tls=TlsContexts.of_node(config.certificates, context.me, context.plan.ca),
    )
    ground = Ground(
        config=group,
        files={rank.rank: folder.muster(rank.node, rank.rank) for rank in context.plan.ranks if not rank.port},
        window_s=context.run.recovery.elastic_wait_s,
        first_s=max(JOIN_S, context.run.recovery.elastic_wait_s),
    )

    def note(mine: Entry) -> None:
        # Before the first generation nobody goes on without all, whatever is open.
        if mine.generation >= 0:
            write_generation(folder, node, seat, note_of(mine, known))

    return muster(ground, entry, note)


def entry_of(known: GenerationNote | None, seat: int, world_size: int, first: int) -> Entry:
    """What a rank says of itself at a muster, from its note. `first`: the number of the run's first generation."""
    if known is None:
        return Entry(rank=seat, generation=first - 1, members=tuple(range(world_size)))
    pending = tuple(Muster(generation=one.generation, members=one.members) for one in known.pending)
    members = known.members or tuple(range(world_size))
    return Entry(rank=seat, generation=known.generation, members=members, pending=pending)


def note_of(mine: Entry, known: GenerationNote | None) -> GenerationNote:
    """What it notes of that. `known`: the note before, whose step stays while the generation does."""
    step = known.step if known is not None and known.generation == mine.generation else None
    pending = tuple(OpenList(generation=one.generation, members=one.members) for one in mine.pending)
    return GenerationNote(generation=mine.generation, step=step, members=mine.members, pending=pending)
