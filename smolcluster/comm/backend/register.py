"""Makes `smol` known to torch.distributed, and `smol_gloo`: gloo bound to one own address."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from smolcluster.comm.backend.group import SmolGroup
from smolcluster.comm.store import smol_store_of
from smolcluster.errors import PeerError

NAME = "smol"


def create(options: Any, _: Any = None) -> SmolGroup:
    """c10d's creator: a group over the mesh of the fabric whose store c10d was given."""
    store = smol_store_of(options.store)
    if store is None:
        raise PeerError(
            "the backend smol needs the store of open_fabric. Fix: call smolcluster.comm.open_fabric(config)."
        )
    members = tuple(options.global_ranks_in_group) or tuple(range(options.group_size))
    cards = [store.mesh.card_of(member).buffer_bytes for member in members if store.mesh.card_of is not None]
    return SmolGroup(
        store.mesh,
        store.control,
        str(options.group_id),
        options.group_rank,
        members,
        min(cards),
        options.timeout.total_seconds(),
    )


def register() -> None:
    """Idempotent."""
    if not dist.Backend._plugins.get(NAME.upper()):
        dist.Backend.register_backend(NAME, create, extended_api=True, devices=["cpu", "mps", "cuda"])
