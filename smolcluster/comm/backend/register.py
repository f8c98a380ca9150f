"""Makes `smol` known to torch.distributed: what c10d calls when a group of that backend is to be made."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from smolcluster.comm import torchrun
from smolcluster.comm.backend.group import SmolGroup
from smolcluster.comm.store import smol_store_of

NAME = "smol"
# The links of a group that found its ranks itself are named by this: c10d's own name for it counts failed attempts.
_WORLD = "world"


def create(options: Any, _: Any = None) -> SmolGroup:
    """c10d's creator. The ranks of the group are found, in this order,

    - through the store, when it is open_fabric's;
    - through the default group, when it is one of ours: sub-groups share its links and its fate;
    - by a rendezvous over whatever store c10d has: that is a script of torchrun's, and the group owns what it opened.
    """
    members = tuple(options.global_ranks_in_group) or tuple(range(options.group_size))
    timeout_s = options.timeout.total_seconds()
    store = smol_store_of(options.store)
    if store is not None:
        mesh, control = store.mesh, store.control
    elif options.global_ranks_in_group and isinstance(dist.group.WORLD, SmolGroup):
        mesh, control = dist.group.WORLD.lives_on
    else:
        return _create_world(options, timeout_s)
    return SmolGroup(
        mesh, control, str(options.group_id), options.group_rank, members, mesh.smallest_buffer(members), timeout_s
    )


def _create_world(options: Any, timeout_s: float) -> SmolGroup:
    rank, size = options.group_rank, options.group_size
    is_default = not options.global_ranks_in_group
    # The default group is looked for below the prefixes that c10d puts on for the device and for the group's name.
    store = options.store.underlying_store.underlying_store if is_default else options.store
    member = None
    try:
        member = torchrun.join(store, rank, size, timeout_s)
        buffer_bytes = member.mesh.smallest_buffer(range(size))
        return SmolGroup(
            member.mesh, member.store.control, _WORLD, rank, range(size), buffer_bytes, timeout_s, owned=member
        )
    except BaseException:
        if member is not None:
            member.teardown(0.0)
        if is_default:
            forget_failed_init()
        raise


def forget_failed_init() -> None:
    """c10d names groups by a count that a failed init of the default group leaves behind: at the next attempt the ranks
    would give the same group other names.
    """
    dist.distributed_c10d._world.group_count = 0


def register() -> None:
    """Idempotent."""
    if not dist.Backend._plugins.get(NAME.upper()):
        dist.Backend.register_backend(NAME, create, extended_api=True, devices=["cpu", "mps", "cuda"])
