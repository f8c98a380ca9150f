"""How ranks talk: links, the store, and the torch.distributed backend `smol`, which importing this registers.

open_fabric(GroupConfig(...)) -> Fabric      everything else is torch.distributed's ordinary API
failure_of(error)                            the PeerError inside what torch raised, if there is one

endpoint  sockets and addresses          control   the star: hub at rank 0, spoke elsewhere; failures
frame     the 32-byte header             table     the store's content      store   c10d's view of it
wire      one socket, never blocking     mesh      who dials whom, counters
handshake, tls   who is there            backend/     collectives, point to point, work handles
link      two wires to one peer          membership   all of that, opened and closed
listener  accepts and pairs wires        fabric       a membership from a plan, and its default group
route     which address of several       torchrun     a membership from c10d's rendezvous
meeting   how its ranks find rank 0      environment  what the variables SMOL_* and torchrun's say
roll      which rank did not come to an operation
muster    who takes part next, of an elastic run; quorum: which lists may go on
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
