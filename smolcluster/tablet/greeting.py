"""Both ends of a connection prove that they know the key of this run's tablets, before anything else is said.

    dialler                              listener
    HELLO {role, run, name, nonce}  ->
                                    <-   CHALLENGE {role, run, name, nonce}
    PROOF {HMAC over both}          ->
                                    <-   WELCOME {HMAC over both, other label}

A native app listens and the cluster dials; a browser cannot listen, so it dials. The key is made from the run's secret,
which never leaves the cluster's own machines: who takes a tablet's key cannot join as a rank.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import Literal, TypeVar

from smolcluster.comm.clock import Deadline
from smolcluster.errors import HandshakeError, PeerError, ProtocolError
from smolcluster.runtime.tabletnote import tablet_key as tablet_key
from smolcluster.tablet.channel import Channel
from smolcluster.tablet.messages import (
    MOST_BYTES,
    Challenge,
    Code,
    Failure,
    Greeting,
    Hello,
    Message,
    Proof,
    Welcome,
    decode,
    encode,
)

T = TypeVar("T", Hello, Challenge, Proof, Welcome)
_DIALLER, _LISTENER = b"smolcluster tablet dialler", b"smolcluster tablet listener"


@dataclass(frozen=True)
class Self:
    """What an end says of itself, and the key that proves it. `name`: of the machine, for messages to people."""

    role: Literal["cluster", "tablet"]
    run: str
    name: str
    key: bytes

    def __repr__(self) -> str:
        return f"Self(role={self.role!r}, run={self.run!r}, name={self.name!r})"


def greet_as_dialler(channel: Channel, me: Self, deadline: Deadline, nonce: str | None = None) -> Challenge:
    """Who answered. HandshakeError: it is not of this run, or does not know the key; other PeerErrors as named."""
    hello = encode(Hello(role=me.role, run=me.run, name=me.name, nonce=nonce or secrets.token_hex(32)))
    channel.send_bytes(hello, deadline)
    data = channel.receive_bytes(deadline)
    challenge = _expect(decode(data, channel.who), Challenge, channel)
    _match(me, challenge, channel)
    channel.send(Proof(proof(me.key, _DIALLER, hello, data)), deadline)
    welcome = _expect(channel.receive(deadline), Welcome, channel)
    if not hmac.compare_digest(welcome.digest, proof(me.key, _LISTENER, hello, data)):
        raise HandshakeError(f"{channel.who} did not prove that it knows the key of this run's tablets")
    channel.admit(MOST_BYTES)
    return challenge


def greet_as_listener(channel: Channel, me: Self, deadline: Deadline, nonce: str | None = None) -> Hello:
    """Who dialled. The same errors; the other end is told, and nothing else was said to it."""
    try:
        data = channel.receive_bytes(deadline)
        hello = _expect(decode(data, channel.who), Hello, channel)
        _match(me, hello, channel)
        challenge = encode(Challenge(role=me.role, run=me.run, name=me.name, nonce=nonce or secrets.token_hex(32)))
        channel.send_bytes(challenge, deadline)
        shown = _expect(channel.receive(deadline), Proof, channel)
        if not hmac.compare_digest(shown.digest, proof(me.key, _DIALLER, data, challenge)):
            raise HandshakeError(f"{channel.who} did not prove that it knows the key of this run's tablets")
    except (HandshakeError, ProtocolError) as error:
        channel.refuse(error, Code.REFUSED)
        raise
    channel.send(Welcome(proof(me.key, _LISTENER, data, challenge)), deadline)
    channel.admit(MOST_BYTES)
    return hello


def proof(key: bytes, label: bytes, hello: bytes, challenge: bytes) -> bytes:
    """HMAC-SHA256 over the label and both greetings word for word, each after its length in 8 bytes, little-endian."""
    digest = hmac.new(key, label, hashlib.sha256)
    for part in (hello, challenge):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def refused(failure: Failure, who: str) -> PeerError:
    """What an ERROR means that is of no session."""
    kind = ProtocolError if failure.code in (Code.VERSION, Code.BAD_MESSAGE) else HandshakeError
    return kind(f"{who} refused: {failure.reason}")


def _expect(message: Message, kind: type[T], channel: Channel) -> T:
    if isinstance(message, Failure):
        raise refused(message, channel.who)
    if not isinstance(message, kind):
        raise ProtocolError(f"{channel.who} sent {message.kind.name} where {kind.__name__.upper()} was due")
    return message


def _match(me: Self, other: Greeting, channel: Channel) -> None:
    if other.role == me.role:
        raise HandshakeError(f"{channel.who} is a {other.role} too")
    if other.run != me.run:
        raise HandshakeError(f"{channel.who} belongs to another run")
