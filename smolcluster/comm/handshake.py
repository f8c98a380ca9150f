"""Who is there? Both ends of a new connection prove that they belong to the same run, before anything else is said.

    dialler                                   acceptor
    HELLO {who I am, nonce}         ->
                                    <-        CHALLENGE {who I am, nonce}
    PROOF {HMAC over both}          ->
                                    <-        WELCOME {HMAC over both, other label}

Either end may answer REFUSE {reason} instead: a short sentence without secrets. The HMAC's key is the run's secret; it
covers both messages word for word, hence both nonces, and the certificate fingerprints of both ends under TLS.
The payloads are small JSON objects: this is the one place where a frame carries text that we parse.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import secrets
import socket
from dataclasses import dataclass
from typing import Literal

from smolcluster.comm.clock import Deadline
from smolcluster.comm.frame import HEADER_BYTES, MAX_HANDSHAKE, Kind, pack, unpack
from smolcluster.comm.tls import peer_fingerprint
from smolcluster.comm.wire import Wire
from smolcluster.errors import DeadlineError, HandshakeError, PeerError, PeerLostError, ProtocolError

NONCE_BYTES = 32
# After a refusal: how much, and for how long, the other end may still talk before we hang up.
_DRAIN_BYTES = 64 * 1024
_DRAIN_S = 0.5
Direction = Literal["out", "in"]


@dataclass(frozen=True)
class Identity:
    """What a rank claims, and the secret that proves it. `digest` is the plan's; `generation` counts restarts."""

    run_id: str
    generation: int
    digest: str
    rank: int
    world_size: int
    secret: bytes
    fingerprint: bytes = b""

    def __repr__(self) -> str:
        return f"Identity(run_id={self.run_id!r}, generation={self.generation}, rank={self.rank})"


@dataclass(frozen=True)
class Hello:
    """What the dialler wants: socket `direction` (as it sees it) of the link `link` of the channel `channel`."""

    rank: int
    channel: str
    link: str
    direction: Direction


def dial_handshake(sock: socket.socket, me: Identity, peer: int, hello: Hello, deadline: Deadline, who: str) -> Wire:
    """Introduce ourselves to rank `peer` on a connected socket; the socket is the returned wire's from then on.

    HandshakeError: we, or they, are not who they should be. ProtocolError, DeadlineError, PeerLostError as named.
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
        }
    )
    _send(wire, Kind.HELLO, mine, deadline)
    theirs = _receive(wire, Kind.CHALLENGE, deadline)
    claim = _decode(theirs, who)
    reason = _mismatch(me, claim) or _wrong_rank(claim, peer)
    if reason:
        _refuse(wire, reason, deadline)
        raise HandshakeError(f"{who} was refused: {reason}")
    fingerprints = (me.fingerprint, peer_fingerprint(sock)) if peer_fingerprint(sock) else (b"", b"")
    _send(wire, Kind.PROOF, _proof(me.secret, b"dialler", mine, theirs, *fingerprints), deadline)
    answer = _receive(wire, Kind.WELCOME, deadline)
    if not hmac.compare_digest(answer, _proof(me.secret, b"acceptor", mine, theirs, *fingerprints)):
        raise HandshakeError(f"{who} did not prove that it knows this run's secret")
    return wire


def accept_handshake(
    sock: socket.socket, me: Identity, deadline: Deadline, who: str, must_encrypt: frozenset[int] = frozenset()
) -> tuple[Wire, Hello]:
    """Let somebody introduce themselves on an accepted socket. The same errors as `dial_handshake`.

    `must_encrypt` are the ranks that may come through TLS only.
    """
    wire = Wire(sock, who)
    theirs = _receive(wire, Kind.HELLO, deadline)
    claim = _decode(theirs, who)
    shown = peer_fingerprint(sock)
    reason = _mismatch(me, claim) or _unwelcome(me, claim, bool(shown), must_encrypt)
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
    _send(wire, Kind.CHALLENGE, mine, deadline)
    fingerprints = (shown, me.fingerprint) if shown else (b"", b"")
    proof = _receive(wire, Kind.PROOF, deadline)
    if not hmac.compare_digest(proof, _proof(me.secret, b"dialler", theirs, mine, *fingerprints)):
        reason = "the run's secret differs; copy the secret file of this run to that machine again"
        _refuse(wire, reason, deadline)
        raise HandshakeError(f"{who}, claiming to be rank {claim['rank']}, was refused: {reason}")
    _send(wire, Kind.WELCOME, _proof(me.secret, b"acceptor", theirs, mine, *fingerprints), deadline)
    rank, channel, link = int(str(claim["rank"])), str(claim["channel"]), str(claim["link"])
    return wire, Hello(rank, channel, link, "out" if claim["direction"] == "out" else "in")


def _mismatch(me: Identity, claim: dict[str, str | int]) -> str:
    """Why the two do not belong together, in words both may hear; empty if they do."""
    if claim.get("run") != me.run_id:
        return f"another run: {str(claim.get('run'))[:80]}, not {me.run_id}"
    if claim.get("generation") != me.generation:
        return (
            f"generation {str(claim.get('generation'))[:20]} of the run, not {me.generation}; one of the two is stale"
        )
    if claim.get("digest") != me.digest:
        return "another plan: the digests differ; copy plan.json of this run to that machine again"
    return ""


def _wrong_rank(claim: dict[str, str | int], peer: int) -> str:
    return "" if claim.get("rank") == peer else f"it is rank {str(claim.get('rank'))[:20]}, rank {peer} was dialled"


def _unwelcome(me: Identity, claim: dict[str, str | int], encrypted: bool, must_encrypt: frozenset[int]) -> str:
    rank = claim.get("rank")
    if claim.get("to") != me.rank:
        return f"it dialled rank {str(claim.get('to'))[:20]}, this is rank {me.rank}"
    if not isinstance(rank, int) or not 0 <= rank < me.world_size or rank == me.rank:
        return f"rank {str(rank)[:20]} has no place here: the run has ranks 0 to {me.world_size - 1}, this is {me.rank}"
    if rank in must_encrypt and not encrypted:
        return f"the link to rank {rank} must be encrypted, and it came in the clear"
    if not all(isinstance(claim.get(key), str) for key in ("channel", "link", "nonce", "direction")):
        return "its greeting lacks a field"
    return ""


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
    except ValueError as error:
        raise ProtocolError(f"{who} sent a greeting that is not JSON") from error
    if not isinstance(fields, dict) or not all(isinstance(value, str | int) for value in fields.values()):
        raise ProtocolError(f"{who} sent a greeting that is not a flat object")
    return fields


def _send(wire: Wire, kind: Kind, payload: bytes, deadline: Deadline) -> None:
    try:
        wire.send_all(pack(kind, len(payload)) + payload, None, deadline)
    except PeerLostError as error:  # with TLS 1.3 this is where a client learns that its certificate was refused
        raise HandshakeError(f"{wire.who} hung up during the handshake: {error.__cause__ or error}") from error


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
        raise HandshakeError(f"{wire.who} hung up during the handshake: not a rank of this run, or it died") from error
    except DeadlineError as error:
        raise DeadlineError(
            f"{wire.who} connected but did not finish the handshake within {deadline.seconds:g} s"
        ) from error
    if header.kind is Kind.REFUSE:
        raise HandshakeError(f"{wire.who} refused us: {payload.decode('utf-8', 'replace')}")
    if header.kind is not expected:
        raise ProtocolError(f"{wire.who} sent {header.kind.name} where {expected.name} was due")
    return bytes(payload)


def _refuse(wire: Wire, reason: str, deadline: Deadline) -> None:
    # They may have gone already, or keep talking: our own error is the one that matters. Closing with something unread
    # would reset the connection and take the reason with it, so what they still send is drained for a moment.
    with contextlib.suppress(PeerError):
        _send(wire, Kind.REFUSE, reason.encode()[:MAX_HANDSHAKE], deadline)
        with contextlib.suppress(OSError):
            wire.sock.shutdown(socket.SHUT_WR)
        wire.recv_all(memoryview(bytearray(_DRAIN_BYTES)), Deadline(min(_DRAIN_S, deadline.left())))
