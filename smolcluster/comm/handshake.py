"""Who is there? Both ends of a new connection prove that they belong to the same run, before anything else is said.

    dialler                                   acceptor
    HELLO {who I am, nonce}         ->
                                    <-        CHALLENGE {who I am, nonce}
    PROOF {HMAC over both}          ->
                                    <-        WELCOME {HMAC over both, other label}

Either end may answer REFUSE {reason} instead: a short sentence without secrets. The HMAC's key is the run's secret; it
covers both messages word for word, hence both nonces, and the certificate fingerprints of both ends under TLS.
Both must mean the same generation of the run, or the dialler says `after` and takes any later one that rank 0 is in.
The payloads are small JSON objects: this is the one place where a frame carries text that we parse.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import secrets
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from smolcluster.comm.alarm import plain
from smolcluster.comm.clock import Deadline
from smolcluster.comm.frame import HEADER_BYTES, MAX_HANDSHAKE, Kind, pack, unpack
from smolcluster.comm.tls import peer_fingerprint
from smolcluster.comm.wire import HungUpError, Wire
from smolcluster.errors import DeadlineError, HandshakeError, PeerError, PeerLostError, ProtocolError

NONCE_BYTES = 32
# After a refusal: how much, and for how long, the other end may still talk before we hang up.
_DRAIN_BYTES = 64 * 1024
_DRAIN_S = 0.5
_MOST_REASON = 1000
_OTHER_START = ("another run: ", "generation ")
Direction = Literal["out", "in"]


class OtherStartError(HandshakeError):
    """The other end belongs to another run, or to another generation of this one: one of the two is stale."""


@dataclass(frozen=True)
class Identity:
    """What a rank claims, and the secret that proves it. `digest` is the plan's; `generation` counts restarts.

    With `after` its generation is not known yet: it is to be the one of whomever it dials, if that is a later one.
    """

    run_id: str
    generation: int
    digest: str
    rank: int
    world_size: int
    secret: bytes
    fingerprint: bytes = b""
    after: int | None = None

    def __repr__(self) -> str:
        return f"Identity(run_id={self.run_id!r}, generation={self.generation}, rank={self.rank})"


class StaleError(OtherStartError):
    """The other end is in a generation that is over: it is about to leave, and its next one will answer here."""


class Standing(IntEnum):
    """How far a caller has come with an acceptor. A stranger can be made to leave for another caller."""

    STRANGER = 0
    GREETED = 1
    PROVEN = 2


@dataclass(frozen=True)
class Hello:
    """What the dialler wants: socket `direction` (as it sees it) of the link `link` of the channel `channel`."""

    rank: int
    channel: str
    link: str
    direction: Direction


def dial_handshake(
    sock: socket.socket, me: Identity, peer: int, hello: Hello, deadline: Deadline, who: str
) -> tuple[Wire, int]:
    """Introduce ourselves to rank `peer` on a connected socket, which is the returned wire's from then on; and the
    generation both are in.

    HandshakeError: we, or they, are not who they should be; StaleError where only their generation is an old one.
    ProtocolError, DeadlineError, PeerLostError as named.
    """
    wire = Wire(sock, who)
    mine = _encode(
        {
            "run": me.run_id,
            "generation": me.generation,
            "digest": me.digest,
            "rank": me.rank,
            "to": peer,
            "channel": hello.channel,
            "link": hello.link,
            "direction": hello.direction,
            "nonce": secrets.token_hex(NONCE_BYTES),
            **({} if me.after is None else {"after": me.after}),
        }
    )
    _send(wire, Kind.HELLO, mine, deadline)
    theirs = _receive(wire, Kind.CHALLENGE, deadline)
    claim = _decode(theirs, who)
    stale = _not_later(me, claim)
    reason = stale or _mismatch(me, claim, me.after is not None) or _wrong_rank(claim, peer)
    if reason:
        _refuse(wire, reason, deadline)
        raise StaleError(f"{who} was refused: {reason}") if stale else _refusal(f"{who} was refused", reason)
    fingerprints = (me.fingerprint, peer_fingerprint(sock)) if peer_fingerprint(sock) else (b"", b"")
    _send(wire, Kind.PROOF, _proof(me.secret, b"dialler", mine, theirs, *fingerprints), deadline)
    answer = _receive(wire, Kind.WELCOME, deadline)
    if not hmac.compare_digest(answer, _proof(me.secret, b"acceptor", mine, theirs, *fingerprints)):
        raise HandshakeError(f"{who} did not prove that it knows this run's secret")
    return wire, int(claim["generation"])


def accept_handshake(
    sock: socket.socket,
    me: Identity,
    deadline: Deadline,
    who: str,
    must_encrypt: frozenset[int] = frozenset(),
    on_standing: Callable[[Standing], None] = lambda _: None,
) -> tuple[Wire, Hello]:
    """Let somebody introduce themselves on an accepted socket. The same errors as `dial_handshake`.

    `must_encrypt` are the ranks that may come through TLS only. `on_standing` is told how far they have come, before
    they are, and may raise.
    """
    wire = Wire(sock, who)
    theirs = _receive(wire, Kind.HELLO, deadline)
    claim = _decode(theirs, who)
    shown = peer_fingerprint(sock)
    # Who joins a later generation decides by itself whether ours is one: it has to dial again if it is not.
    reason = _mismatch(me, claim, "after" in claim) or _unwelcome(me, claim, bool(shown), must_encrypt)
    if reason:
        _refuse(wire, reason, deadline)
        raise HandshakeError(f"{who} was refused: {reason}")
    mine = _encode(
        {
            "run": me.run_id,
            "generation": me.generation,
            "digest": me.digest,
            "rank": me.rank,
            "nonce": secrets.token_hex(NONCE_BYTES),
        }
    )
    on_standing(Standing.GREETED)
    _send(wire, Kind.CHALLENGE, mine, deadline)
    fingerprints = (shown, me.fingerprint) if shown else (b"", b"")
    proof = _receive(wire, Kind.PROOF, deadline)
    if not hmac.compare_digest(proof, _proof(me.secret, b"dialler", theirs, mine, *fingerprints)):
        reason = "the run's secret differs; copy the secret file of this run to that machine again"
        _refuse(wire, reason, deadline)
        raise HandshakeError(f"{who}, claiming to be rank {claim['rank']}, was refused: {reason}")
    on_standing(Standing.PROVEN)
    _send(wire, Kind.WELCOME, _proof(me.secret, b"acceptor", theirs, mine, *fingerprints), deadline)
    rank, channel, link = int(claim["rank"]), str(claim["channel"]), str(claim["link"])
    return wire, Hello(rank, channel, link, "out" if claim["direction"] == "out" else "in")


def _mismatch(me: Identity, claim: dict[str, str | int], any_generation: bool) -> str:
    """Why the two do not belong together, in words both may hear; empty if they do."""
    if claim.get("run") != me.run_id:
        return f"another run: {_said(claim, 'run', 80)}, not {me.run_id}"
    if not any_generation and claim.get("generation") != me.generation:
        return f"generation {_said(claim, 'generation')} of the run, not {me.generation}; one of the two is stale"
    if claim.get("digest") != me.digest:
        return "another plan: the digests differ; copy plan.json of this run to that machine again"
    return ""


def _refusal(what: str, reason: str) -> HandshakeError:
    return (OtherStartError if reason.startswith(_OTHER_START) else HandshakeError)(f"{what}: {reason}")


def _not_later(me: Identity, claim: dict[str, str | int]) -> str:
    """Why somebody is not in a generation this rank can join; empty if they are, or if it is in one already."""
    theirs = claim.get("generation")
    if me.after is None or (isinstance(theirs, int) and theirs > me.after):
        return ""
    return f"generation {_said(claim, 'generation')} of the run, where this rank has been in {me.after}"


def _wrong_rank(claim: dict[str, str | int], peer: int) -> str:
    return "" if claim.get("rank") == peer else f"it is rank {_said(claim, 'rank')}, rank {peer} was dialled"


def _unwelcome(me: Identity, claim: dict[str, str | int], encrypted: bool, must_encrypt: frozenset[int]) -> str:
    rank = claim.get("rank")
    if claim.get("to") != me.rank:
        return f"it dialled rank {_said(claim, 'to')}, this is rank {me.rank}"
    if not isinstance(rank, int) or not 0 <= rank < me.world_size or rank == me.rank:
        last = me.world_size - 1
        return f"rank {_said(claim, 'rank')} has no place here: the run has ranks 0 to {last}, this is {me.rank}"
    if rank in must_encrypt and not encrypted:
        return f"the link to rank {rank} must be encrypted, and it came in the clear"
    if "after" in claim and me.rank != 0:
        return f"rank {_said(claim, 'rank')} looks for a generation to join, and rank 0 has the say in that"
    if not all(isinstance(claim.get(key), str) for key in ("channel", "link", "nonce", "direction")):
        return "its greeting lacks a field"
    if claim["direction"] not in ("out", "in"):
        return "its greeting names no direction"
    return ""


def _said(claim: dict[str, str | int], key: str, most: int = 20) -> str:
    """What a stranger wrote goes into errors and logs: shortened, and without control characters."""
    return plain(str(claim.get(key)), most).replace("\n", "?")


def _proof(secret: bytes, label: bytes, *parts: bytes) -> bytes:
    digest = hmac.new(secret, label, hashlib.sha256)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


def _encode(fields: dict[str, str | int]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def _decode(payload: bytes, who: str) -> dict[str, str | int]:
    try:
        fields = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"{who} sent a greeting that is not JSON") from error
    # `type`, not isinstance: True would pass for rank 1.
    if not isinstance(fields, dict) or not all(type(value) in (str, int) for value in fields.values()):
        raise ProtocolError(f"{who} sent a greeting that is not a flat object")
    return fields


def _send(wire: Wire, kind: Kind, payload: bytes, deadline: Deadline) -> None:
    try:
        wire.send_all(pack(kind, len(payload)) + payload, None, deadline)
    except PeerLostError as error:
        raise _hung_up(wire, error, f"{error.__cause__ or error}") from error


def _hung_up(wire: Wire, error: PeerLostError, why: str) -> HandshakeError:
    """With TLS 1.3 a client learns here that its certificate was refused: that is an answer, silence is none."""
    refused = isinstance(error.__cause__, ssl.SSLError) and not isinstance(error.__cause__, ssl.SSLEOFError)
    kind = HandshakeError if refused else HungUpError
    return kind(f"{wire.who} hung up during the handshake: {why}")


def _receive(wire: Wire, expected: Kind, deadline: Deadline) -> bytes:
    head = bytearray(HEADER_BYTES)
    try:
        wire.recv_all(memoryview(head), deadline)
        try:
            header = unpack(head, MAX_HANDSHAKE, wire.who)
        except HandshakeError as error:  # another version: say it in ours, the header's layout is the same in all
            _refuse(wire, str(error), deadline)
            raise
        payload = bytearray(header.length)
        wire.recv_all(memoryview(payload), deadline)
    except PeerLostError as error:
        raise _hung_up(wire, error, "not a rank of this run, or it died") from error
    except DeadlineError as error:
        raise DeadlineError(
            f"{wire.who} connected but did not finish the handshake within {deadline.seconds:g} s"
        ) from error
    if header.kind is Kind.REFUSE:
        raise _refusal(f"{wire.who} refused us", plain(payload.decode("utf-8", "replace"), _MOST_REASON))
    if header.kind is not expected:
        raise ProtocolError(f"{wire.who} sent {header.kind.name} where {expected.name} was due")
    return bytes(payload)


def _refuse(wire: Wire, reason: str, deadline: Deadline) -> None:
    # They may have gone already, or keep talking: our own error is the one that matters. Closing with something unread
    # would reset the connection and take the reason with it, so what they still send is drained for a moment.
    with contextlib.suppress(PeerError):
        _send(wire, Kind.REFUSE, reason.encode(errors="replace")[:_MOST_REASON], deadline)
        with contextlib.suppress(OSError):
            wire.sock.shutdown(socket.SHUT_WR)
        wire.recv_all(memoryview(bytearray(_DRAIN_BYTES)), Deadline(min(_DRAIN_S, deadline.left())))
