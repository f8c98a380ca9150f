"""Joining from c10d's own rendezvous: what `init_process_group("smol")` does in a script that torchrun started.

The settings come from the environment, which is read here and nowhere else in comm; documented in README.md. The given
store serves to find rank 0 only (meeting.py): from then on everything is as in our own runs, down to the names of the
dead. A secret never comes from the environment, only from a file; without one rank 0 draws it and leaves it in the
store, where whoever reaches torchrun's store can read it: torchrun's own level of security.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Mapping
from dataclasses import replace

import torch.distributed as dist

from smolcluster.comm.allocator import keep_freed_memory
from smolcluster.comm.clock import Deadline
from smolcluster.comm.config import GroupConfig
from smolcluster.comm.endpoint import Endpoint
from smolcluster.comm.environment import Settings, read_settings
from smolcluster.comm.handshake import OtherStartError
from smolcluster.comm.meeting import Meeting, Notice
from smolcluster.comm.membership import Membership
from smolcluster.comm.route import is_loopback, nearest
from smolcluster.errors import DeadlineError, HandshakeError, PeerError

log = logging.getLogger("smolcluster.comm")

# How long rank 0's address is tried before looking whether it has begun another round: it listens before it says where.
REACH_S = 5.0
SECRET_BYTES = 32


def join(
    store: dist.Store, rank: int, world_size: int, timeout_s: float, environ: Mapping[str, str] = os.environ
) -> Membership:
    """All ranks call it with views of the same store; open within `timeout_s`, the timeout given to c10d.

    ConfigError: a variable is wrong. Any PeerError names who did not come or was refused; nothing is left behind.
    """
    settings = read_settings(environ, _endpoint_of(store))
    if settings.keep_memory:
        keep_freed_memory()
    deadline = Deadline(timeout_s)
    if world_size == 1:
        alone = Membership(_config(settings, rank, world_size, timeout_s, None))
        alone.join(deadline)
        return alone
    meeting = Meeting(store, rank)
    if rank == 0:
        return _invite(meeting, settings, world_size, timeout_s, deadline)
    return _accept(meeting, settings, rank, world_size, timeout_s, deadline)


def _invite(meeting: Meeting, settings: Settings, world_size: int, timeout_s: float, deadline: Deadline) -> Membership:
    if not settings.secret and not all(is_loopback(host) for host in settings.hosts):
        log.warning(
            "smol: no SMOL_SECRET_FILE: the run's secret passes through torchrun's store, where everybody who reaches "
            "it can read it. Give every machine a copy of one secret file unless all of this network is trusted."
        )
    drawn = b"" if settings.secret else secrets.token_bytes(SECRET_BYTES)
    notice = Notice(settings.hosts, 0, secrets.token_hex(8), settings.generation, settings.tls is not None, drawn)
    member = Membership(_config(settings, 0, world_size, timeout_s, notice))
    assert member.endpoint is not None, "settings have an address"
    try:
        round_ = meeting.publish(replace(notice, port=member.endpoint.port))
    except BaseException:
        member.teardown(0.0)
        raise
    try:
        member.join(deadline)
    except BaseException:
        with contextlib.suppress(PeerError):  # why nobody could join says more
            meeting.conclude(round_)
        raise
    try:
        meeting.conclude(round_)
    except BaseException:
        member.teardown(0.0)
        raise
    return member


def _accept(
    meeting: Meeting, settings: Settings, rank: int, world_size: int, timeout_s: float, deadline: Deadline
) -> Membership:
    stale, refused = 0, None
    while True:
        try:
            round_, notice = meeting.find(deadline, after=stale)
        except DeadlineError:
            if refused is not None:  # says more than that no other notice came
                raise refused from None
            raise
        _check(settings, notice)
        member = Membership(_config(settings, rank, world_size, timeout_s, notice))
        try:
            member.join(deadline, reach=Deadline(min(REACH_S, deadline.left())))
        except PeerError as error:
            if member.reached:
                with contextlib.suppress(PeerError):  # the first error says more
                    meeting.enter(round_)
                raise
            if isinstance(error, OtherStartError):
                # A fixed port outlives a start: rank 0 of the next one listens there and has not said so yet.
                stale, refused = round_, error
                continue
            # Nobody there: the notice may be of a start that was killed, and the next one may take a while.
            waits = isinstance(error, DeadlineError) and not deadline.expired
            if not waits and meeting.newest() == round_:
                raise
            continue
        try:
            meeting.enter(round_)
        except BaseException:
            member.teardown(0.0)
            raise
        return member


def _check(settings: Settings, notice: Notice) -> None:
    """Both ends must mean the same security; the weaker one is never taken over silently."""
    for theirs, ours, what in (
        (not notice.secret, bool(settings.secret), "SMOL_SECRET_FILE"),
        (notice.encrypted, settings.tls is not None, "SMOL_TLS_CERT, SMOL_TLS_KEY and SMOL_TLS_CA"),
    ):
        if theirs != ours:
            has, lacks = ("rank 0", "this rank") if theirs else ("this rank", "rank 0")
            raise HandshakeError(f"{has} was given {what}, {lacks} was not. Fix: set it on every machine or on none.")


def _config(settings: Settings, rank: int, world_size: int, timeout_s: float, notice: Notice | None) -> GroupConfig:
    everybody = range(world_size)
    at_rank_0 = rank > 0 and notice is not None
    return GroupConfig(
        rank=rank,
        world_size=world_size,
        listen=settings.hosts,
        port=settings.port,
        peers={0: nearest(notice.hosts, settings.hosts)} if at_rank_0 and notice else {},
        peer_ports={0: notice.port} if at_rank_0 and notice else {},
        encrypt=dict.fromkeys(everybody, settings.tls is not None),
        buffer_bytes=settings.buffer_bytes,
        timeout_s=min(settings.timeout_s, timeout_s),
        run_id=notice.run_id if notice else "alone",
        generation=notice.generation if notice else 0,
        secret=settings.secret or (notice.secret if notice else b""),
        tls=settings.tls,
    )


def _endpoint_of(store: dist.Store) -> Endpoint | None:
    """Where the rendezvous store listens, if it is one that does."""
    while isinstance(store, dist.PrefixStore):
        store = store.underlying_store
    return Endpoint(store.host, store.port) if isinstance(store, dist.TCPStore) else None
