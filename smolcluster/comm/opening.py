"""A rank's own end of everything, from its GroupConfig: the listener and the mesh, and how rank 0 is found."""

from __future__ import annotations

import threading
from dataclasses import replace

from smolcluster.comm.announce import find
from smolcluster.comm.clock import Deadline
from smolcluster.comm.config import GroupConfig
from smolcluster.comm.endpoint import REDIAL_S, Endpoint, listen
from smolcluster.comm.handshake import Identity
from smolcluster.comm.link import Link
from smolcluster.comm.listener import Listener
from smolcluster.comm.mesh import Mesh
from smolcluster.comm.wire import HungUpError
from smolcluster.errors import DeadlineError, PeerError, PeerLostError

_NONE_YET = -1
# How long a port is tried before it is looked up again, and before somebody who asked to stop is heard.
_ATTEMPT_S = 1.0


def open_mesh(config: GroupConfig) -> Mesh:
    """A rank's listener, if somebody dials it, and its links, before anybody is known.

    PeerError when it cannot listen: an address that is not ours, a port in use.
    """
    fingerprint = config.tls.fingerprint if config.tls is not None else b""
    me = Identity(
        config.run_id,
        config.generation,
        config.digest,
        config.rank,
        config.world_size,
        config.secret,
        fingerprint,
        config.after,
    )
    listener: Listener | None = None
    if config.listen and config.world_size > 1:
        must_encrypt = frozenset(rank for rank, wanted in config.encrypt.items() if wanted)
        sockets = listen(config.listen, config.port, Deadline(config.bind_s))
        # Nobody is welcome before this rank knows its own generation.
        mine = me if config.after is None else replace(me, generation=_NONE_YET, after=None)
        listener = Listener(sockets, mine, config.buffer_bytes, config.timeout_s, config.tls, must_encrypt)
    return Mesh(
        me,
        listener,
        config.peers,
        config.peer_ports,
        config.encrypt,
        config.tls,
        config.buffer_bytes,
        config.timeout_s,
        config.listen,
        config.faults,
        config.sounds,
    )


def where_is_rank_0(config: GroupConfig, deadline: Deadline) -> Endpoint:
    """Its fixed port, or what it announced. With `config.after` it may be a later generation's announcement."""
    port = config.peer_ports.get(0, 0)
    if port:
        return Endpoint(config.peers[0], port)
    if config.endpoint_file is None:
        raise PeerError("rank 0's port is 0 and there is no endpoint file. Fix: give rank 0 a fixed `port`.")
    least = config.generation if config.after is None else config.after + 1
    found = find(config.endpoint_file, config.run_id, least, deadline, or_later=config.after is not None)
    return Endpoint(config.peers.get(0, found.host), found.port)


def dial_rank_0(mesh: Mesh, config: GroupConfig, channel: str, deadline: Deadline, stop: threading.Event) -> Link:
    """A link to rank 0, which may be starting again: then its port in the endpoint file is that of one that is gone.

    Whoever answers at such a port may be anybody, so no refusal is final there; at a fixed port one is. PeerLostError
    once `stop` is set.
    """
    announced = not config.peer_ports.get(0, 0)
    while True:
        try:
            where = where_is_rank_0(config, Deadline(min(_ATTEMPT_S, deadline.left())))
            return mesh.link(0, channel, where, Deadline(min(_ATTEMPT_S, deadline.left())))
        except PeerError as error:
            passes = isinstance(error, DeadlineError | PeerLostError) or isinstance(error.__cause__, HungUpError)
            if not (passes or announced):
                raise
            if deadline.left() <= REDIAL_S:
                raise DeadlineError(f"rank 0 was not reached within {deadline.seconds:g} s: {error}") from error
        if stop.wait(REDIAL_S):
            raise PeerLostError("rank 0 was not reached: this rank is to stop")
