"""One question over multicast DNS: who offers `_ssh._tcp` here? (RFC 6762, section 5.1: one-shot queries.)

A socket at one own address, no thread, no group joined, nothing kept: answers come back to where the question came
from. A general library would listen on every interface for as long as it runs; this needs one question.

Answers come from anybody on the wire: they are read with bounds on everything, and taken for claims, not for facts.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

GROUP = ("224.0.0.251", 5353)
SSH = "_ssh._tcp.local"
_PTR, _A, _SRV, _IN = 12, 1, 33, 1
# Asks for an answer to the asker alone.
_UNICAST = 0x8000
_MOST_BYTES, _MOST_RECORDS, _MOST_JUMPS, _MOST_NAMES = 9000, 256, 32, 256


@dataclass(frozen=True, order=True)
class Offer:
    """A machine that says it takes logins: its host name (mini1.local), port and IPv4 addresses."""

    host: str
    port: int
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Record:
    """An answer: of which name, of which type, and what it says (a name, a host and port, or an address)."""

    name: str
    type: int
    target: str
    port: int = 0


@dataclass
class _Known:
    instances: set[str] = field(default_factory=set)
    hosts: dict[str, tuple[str, int]] = field(default_factory=dict)
    addresses: dict[str, set[str]] = field(default_factory=dict)


def browse(own: str, seconds: float, group: tuple[str, int] = GROUP, service: str = SSH) -> tuple[Offer, ...]:
    """Ask from the own address `own` and listen for so many seconds. OSError when the network refuses."""
    known = _Known()
    end = time.monotonic() + seconds
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.bind((own, 0))
        asker.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(own))
        asker.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        asker.sendto(question([(service, _PTR)]), group)
        asked: set[str] = set()
        while (left := end - time.monotonic()) > 0:
            asker.settimeout(left)
            try:
                packet = asker.recv(_MOST_BYTES)
            except TimeoutError:
                break
            _note(known, answers(packet), service)
            more = _unknown(known) - asked
            if more and len(asked) < _MOST_NAMES:
                asked |= more
                asker.sendto(question([(name, _A if name in _hosts(known) else _SRV) for name in sorted(more)]), group)
    return _offers(known)


def question(names: Iterable[tuple[str, int]]) -> bytes:
    """A query for names of types."""
    asked = [_encoded(name) + struct.pack("!HH", kind, _IN | _UNICAST) for name, kind in names]
    return struct.pack("!6H", 0, 0, len(asked), 0, 0, 0) + b"".join(asked)


def answers(packet: bytes) -> tuple[Record, ...]:
    """The PTR, SRV and A records of a response; nothing of a packet that is no response or is broken."""
    try:
        return tuple(_records(packet))
    except (IndexError, struct.error, UnicodeDecodeError, ValueError):
        return ()


def _records(packet: bytes) -> Iterator[Record]:
    _, flags, questions, *counts = struct.unpack_from("!6H", packet)
    if not flags & 0x8000 or sum(counts) > _MOST_RECORDS or questions > _MOST_RECORDS:
        return
    at = 12
    for _ in range(questions):
        _, at = _name(packet, at)
        at += 4
    for _ in range(sum(counts)):
        name, at = _name(packet, at)
        kind, _, _, length = struct.unpack_from("!HHIH", packet, at)
        at += 10
        if at + length > len(packet):
            raise ValueError("a record is longer than its packet")
        if kind == _PTR:
            yield Record(name, kind, _name(packet, at)[0])
        elif kind == _SRV:
            yield Record(name, kind, _name(packet, at + 6)[0], struct.unpack_from("!H", packet, at + 4)[0])
        elif kind == _A and length == 4:
            yield Record(name, kind, socket.inet_ntoa(packet[at : at + 4]))
        at += length


def _name(packet: bytes, at: int) -> tuple[str, int]:
    """A name and where it ends. Names may point at earlier ones; the number of jumps is bounded."""
    labels: list[str] = []
    end = 0
    for _ in range(_MOST_JUMPS + 128):
        length = packet[at]
        if length & 0xC0 == 0xC0:
            end = end or at + 2
            target = struct.unpack_from("!H", packet, at)[0] & 0x3FFF
            if target >= at:
                raise ValueError("a name points forward")
            at = target
        elif length:
            labels.append(packet[at + 1 : at + 1 + length].decode("utf-8"))
            at += 1 + length
        else:
            return ".".join(labels), end or at + 1
    raise ValueError("a name does not end")


def _encoded(name: str) -> bytes:
    """Labels. An instance's own label may hold dots; it is everything before the service."""
    parts: list[str] = name.split(".")
    at = name.find("._ssh._tcp.")
    if at > 0:
        parts = [name[:at], *name[at + 1 :].split(".")]
    raw = [part.encode()[:63] for part in parts if part]
    return b"".join(bytes([len(part)]) + part for part in raw) + b"\0"


def _note(known: _Known, records: Iterable[Record], service: str) -> None:
    for record in records:
        if len(known.instances) + len(known.hosts) + len(known.addresses) > _MOST_NAMES:
            return
        if record.type == _PTR and record.name.lower() == service:
            known.instances.add(record.target)
        elif record.type == _SRV and record.name.lower().endswith(service):
            known.instances.add(record.name)
            known.hosts[record.name] = (record.target.rstrip("."), record.port)
        elif record.type == _A:
            known.addresses.setdefault(record.name.rstrip("."), set()).add(record.target)


def _hosts(known: _Known) -> set[str]:
    return {host for host, _ in known.hosts.values()}


def _unknown(known: _Known) -> set[str]:
    return {name for name in known.instances if name not in known.hosts} | (_hosts(known) - set(known.addresses))


def _offers(known: _Known) -> tuple[Offer, ...]:
    found = {
        Offer(host, port, tuple(sorted(known.addresses.get(host, ())))) for host, port in known.hosts.values() if host
    }
    return tuple(sorted(found))
