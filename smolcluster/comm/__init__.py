"""How ranks talk: links, the store, and the torch.distributed backend `smol`, which importing this registers.

open_fabric(GroupConfig(...)) -> Fabric      everything else is torch.distributed's ordinary API
failure_of(error)                            the PeerError inside what torch raised, if there is one

endpoint  sockets and addresses          control   the star: hub at rank 0, spoke elsewhere; failures
frame     the 32-byte header             table     the store's content      store   c10d's view of it
wire      one socket, never blocking     mesh      who dials whom, counters
handshake, tls   who is there            roll      which rank did not come to an operation
link      two wires to one peer          fabric    all of it, opened and closed
listener  accepts and pairs wires        backend/  collectives, point to point, work handles
"""

from __future__ import annotations

from smolcluster.comm.alarm import failure_of
from smolcluster.comm.backend.register import register
from smolcluster.comm.config import GroupConfig
from smolcluster.comm.fabric import Fabric, open_fabric
from smolcluster.comm.mesh import WireCounters
from smolcluster.comm.stats import LinkStats
from smolcluster.comm.tls import TlsContexts

register()

__all__ = ["Fabric", "GroupConfig", "LinkStats", "TlsContexts", "WireCounters", "failure_of", "open_fabric"]
