"""How this rank gets a link to any other: the higher rank dials, the lower one waits at its listener.

Keeps the links of this process for its counters and so that a failure can end them all at once. Where peers listen it
learns from the plan, or from what they published in the store.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from smolcluster.comm.alarm import copy_of
from smolcluster.comm.clock import Deadline
from smolcluster.comm.endpoint import REDIAL_S, Endpoint, dial, endpoint_of, tune
from smolcluster.comm.faults import Faults
from smolcluster.comm.handshake import Hello, Identity, StaleError, dial_handshake
from smolcluster.comm.link import Link
from smolcluster.comm.listener import HANDSHAKE_S, Listener
from smolcluster.comm.pulse import heartbeat_s
from smolcluster.comm.route import nearest
from smolcluster.comm.tls import TlsContexts
from smolcluster.comm.wire import HungUpError, Wire
from smolcluster.errors import HandshakeError, PeerError, PeerLostError, ProtocolError

_MOST_BUFFER_BYTES = 1 << 40
_MOST_HOSTS = 64
# How long a listener that hangs up without a word is dialled again: it may be too busy with strangers.
CROWDED_S = 15.0


@dataclass(frozen=True)
class WireCounters:
    """Bytes counted on this process's sockets: payload, headers, handshakes."""

    bytes_out: int
    bytes_in: int

    def plus(self, link: Link) -> WireCounters:
        """With what a link has counted so far."""
        return WireCounters(self.bytes_out + link.bytes_out, self.bytes_in + link.bytes_in)


@dataclass(frozen=True)
class Card:
    """What a rank publishes of itself: the addresses it listens on, and the chunk by which its links pipeline."""

    hosts: tuple[str, ...]
    port: int
    buffer_bytes: int

    def encode(self) -> bytes:
        """For the store."""
        return json.dumps({"hosts": self.hosts, "port": self.port, "buffer_bytes": self.buffer_bytes}).encode()

    @classmethod
    def decode(cls, text: bytes) -> Card:
        """From the store. ProtocolError if a peer published something else."""
        try:
            fields = json.loads(text)
            hosts, port, buffer_bytes = fields["hosts"], fields["port"], fields["buffer_bytes"]
            if not isinstance(hosts, list) or len(hosts) > _MOST_HOSTS:
                raise ValueError("hosts is no short list")
            # A rank that listens nowhere has a port all the same.
            where = [endpoint_of({"host": host, "port": port}) for host in [*hosts, ""]]
            if type(buffer_bytes) is not int or not 0 <= buffer_bytes <= _MOST_BUFFER_BYTES:
                raise ValueError(f"buffer_bytes is {buffer_bytes!r:.40}")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ProtocolError(f"a rank published a card that cannot be read: {str(error)[:200]}") from error
        return cls(tuple(hosts), where[-1].port, buffer_bytes)


class Mesh:
    """Links of one process. `card_of(rank)` gives what a peer published; `hosts` where to dial it, else the address on
    its card that is nearest to `own_hosts`. `sounds`: heartbeats measure the way there and back.
    """

    def __init__(
        self,
        me: Identity,
        listener: Listener | None,
        hosts: Mapping[int, str],
        ports: Mapping[int, int],
        encrypt: Mapping[int, bool],
        tls: TlsContexts | None,
        buffer_bytes: int,
        timeout_s: float,
        own_hosts: tuple[str, ...] = (),
        faults: Faults | None = None,
        sounds: bool = False,
    ) -> None:
        self.me = me
        self.listener = listener
        self.buffer_bytes = buffer_bytes
        self.timeout_s = timeout_s
        self.card_of: Callable[[int], Card] | None = None
        self._hosts = hosts
        self._own_hosts = own_hosts
        self._ports = ports
        self._encrypt = encrypt
        self._tls = tls
        self._faults = faults
        self.sounds = sounds
        self._lock = threading.Lock()
        self._links: list[Link] = []
        self._past: dict[int, WireCounters] = {}
        self._failure: PeerError | None = None
        self._failed = threading.Event()
        self._dialling: set[socket.socket] = set()

    def link(
        self,
        peer: int,
        channel: str,
        where: Endpoint | None = None,
        deadline: Deadline | None = None,
        counts: bool = True,
    ) -> Link:
        """A new link to `peer` for `channel`, within the deadline (None: the timeout). Both ends have to ask for it.
        A peer that is dialled and answers before the deadline has HANDSHAKE_S at least.

        `where` overrides the address; `counts` False: what goes over it is none of the run's bytes. HandshakeError,
        DeadlineError, PeerLostError name the peer.
        """
        deadline = deadline or Deadline(self.timeout_s)
        if peer > self.me.rank:
            if self.listener is None:
                raise PeerError(
                    f"rank {self.me.rank} listens nowhere, and rank {peer} has to dial it. "
                    "Fix: give this machine an address on a network it shares with that rank's."
                )
            made = self.listener.take(channel, peer, deadline)
        else:
            made = self._dial(peer, channel, where or self._where(peer), deadline)
        made.counts, made.sounds = counts, self.sounds
        if self._faults is not None:
            self._faults.attach(made)
        with self._lock:
            self._links.append(made)
            failure = self._failure
        if failure:
            made.abort()
            raise copy_of(failure)
        return made

    def patience(self, peer: int, operation_s: float) -> Deadline:
        """How long to wait for a link to a rank that lives and comes to the operation late.

        To dial takes no longer than the timeout; a rank that has to dial us may be at its work for an operation's time.
        """
        return Deadline(min(operation_s, self.timeout_s) if peer < self.me.rank else operation_s)

    def has_come(self, peer: int, channel: str) -> bool:
        """Whether `link` to a higher rank would not have to wait."""
        return self.listener is not None and self.listener.holds(channel, peer)

    def sweep(self, stale: Callable[[str], bool]) -> None:
        """Hang up on higher ranks that came for a channel nobody will take any more."""
        if self.listener is not None:
            self.listener.sweep(stale)

    def watch(self, channel: str, wake: Callable[[], None]) -> None:
        """Call `wake` whenever a rank has come for `channel`, or none will any more."""
        if self.listener is not None:
            self.listener.watch(channel, wake)

    def unwatch(self, channel: str) -> None:
        """The end of `watch`."""
        if self.listener is not None:
            self.listener.watch(channel, None)

    def _where(self, peer: int) -> Endpoint:
        port = self._ports.get(peer, 0)
        host = self._hosts.get(peer)
        if port and host:
            return Endpoint(host, port)
        assert self.card_of is not None, "the store opens first"
        card = self.card_of(peer)
        return Endpoint(host or nearest(card.hosts, self._own_hosts), port or card.port)

    def smallest_buffer(self, members: Sequence[int]) -> int:
        """The chunk by which links among these ranks pipeline: the smallest that any of them wants."""
        if self.card_of is None:
            return self.buffer_bytes
        return min(self.card_of(member).buffer_bytes for member in members)

    def _dial(self, peer: int, channel: str, where: Endpoint, deadline: Deadline) -> Link:
        name = secrets.token_hex(8)
        out, generation = self._dial_one(peer, where, self.me, Hello(self.me.rank, channel, name, "out"), deadline)
        # The second half is of the same generation, whoever answers now.
        me = replace(self.me, generation=generation, after=None)
        deadline = self._to_introduce(deadline)
        try:
            inward, _ = self._dial_one(peer, where, me, Hello(self.me.rank, channel, name, "in"), deadline)
        except PeerError as error:
            out.close()
            if self.me.after is not None:
                raise StaleError(f"generation {generation} ended while it was joined: {error}") from error
            raise
        except BaseException:
            out.close()
            raise
        self.me = me
        return Link(peer, channel, out, inward, self.timeout_s)

    def _dial_one(self, peer: int, where: Endpoint, me: Identity, hello: Hello, deadline: Deadline) -> tuple[Wire, int]:
        patience = Deadline(min(CROWDED_S, deadline.left()))
        try:
            while True:
                try:
                    return self._introduce(peer, where, me, hello, deadline)
                except HungUpError as error:
                    if patience.left() <= REDIAL_S or self._failed.wait(REDIAL_S):
                        raise HandshakeError(str(error)) from error
                    # If nobody listens there any more, that was why.
                    deadline = patience
        except PeerError:
            with self._lock:
                failure = self._failure
            if failure is not None:
                raise copy_of(failure) from None
            raise

    def _introduce(
        self, peer: int, where: Endpoint, me: Identity, hello: Hello, deadline: Deadline
    ) -> tuple[Wire, int]:
        who = f"rank {peer}"
        opened = dial(where, deadline, who, self._failed)
        deadline = self._to_introduce(deadline)
        try:
            self._dials(opened)
            tune(opened, self.buffer_bytes)
            if self._encrypt.get(peer, False):
                if self._tls is None:
                    raise PeerError(
                        f"the link to {who} must be encrypted and this rank has no certificate. "
                        "Fix: ansible-playbook certificates.yml."
                    )
                plain, opened = opened, self._tls.start(opened, serving=False, who=f"{who} at {where}")
                self._dials(opened, instead_of=plain)
                self._tls.finish(opened, deadline, f"{who} at {where}")
            wire, generation = dial_handshake(opened, me, peer, hello, deadline, f"{who} at {where}")
        except OSError as error:
            opened.close()
            if isinstance(error, PeerError):
                raise
            raise PeerLostError(f"the connection to {who} at {where} broke: {error.strerror or error}") from error
        except BaseException:
            opened.close()
            raise
        finally:
            with self._lock:
                self._dialling.discard(opened)
        wire.who = who
        return wire, generation

    def _to_introduce(self, deadline: Deadline) -> Deadline:
        """An attempt may be short, so that an address is looked up again; on a busy machine a handshake takes seconds,
        and to the other end whoever gives it up in the middle is a rank that came and was lost.
        """
        least_s = min(HANDSHAKE_S, self.timeout_s)
        return deadline if deadline.left() >= least_s else Deadline(least_s)

    def _dials(self, opened: socket.socket, instead_of: socket.socket | None = None) -> None:
        """A failure of the run ends this connection, which is not yet a link's, from now on."""
        with self._lock:
            if instead_of is not None:
                self._dialling.discard(instead_of)
            self._dialling.add(opened)
            if self._failure is not None:
                raise copy_of(self._failure)

    def forget(self, link: Link) -> None:
        """A link was closed: keep what it counted."""
        with self._lock:
            if link in self._links:
                self._links.remove(link)
                if link.counts:
                    past = self._past.get(link.peer, WireCounters(0, 0))
                    self._past[link.peer] = past.plus(link)

    def drop(self, *links: Link | None) -> None:
        """End links at once; whoever waits on one wakes. For when no other thread uses them any more."""
        for link in links:
            if link is not None:
                link.abort()
                link.discard()
                self.forget(link)

    def pulse(self) -> None:
        """A heartbeat on every link that is idle. Those that are broken are left to whoever receives on them."""
        for link in self.links():
            with contextlib.suppress(PeerError):
                link.pulse(heartbeat_s(self.timeout_s))

    def links(self) -> list[Link]:
        """The links that are open."""
        with self._lock:
            return list(self._links)

    def counters(self) -> WireCounters:
        """All bytes this process has moved over links so far."""
        with self._lock:
            past, links = self._past.values(), [link for link in self._links if link.counts]
            out = sum(each.bytes_out for each in past) + sum(link.bytes_out for link in links)
            inward = sum(each.bytes_in for each in past) + sum(link.bytes_in for link in links)
        return WireCounters(out, inward)

    def counters_by_peer(self) -> dict[int, WireCounters]:
        """The same, by the rank at the other end."""
        with self._lock:
            found = dict(self._past)
            for link in self._links:
                if link.counts:
                    found[link.peer] = found.get(link.peer, WireCounters(0, 0)).plus(link)
        return found

    def fail(self, error: PeerError, spare: str) -> None:
        """End all links but those of the channel `spare`: whoever waits on one wakes. Later ones are refused."""
        with self._lock:
            self._failure = error
            links = [link for link in self._links if link.channel != spare]
            dialling = list(self._dialling)
        self._failed.set()
        for link in links:
            link.abort()
        for opened in dialling:
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
        if self.listener is not None:
            self.listener.fail(error)
