"""The letters of a star (comm/letter.py), and what is in them.

worker to server, `number` is the sequence of the worker's process, from 1:
    PUSH      lease, base, generation, tokens, loss, pull; the body is the mean gradient, in the run's wire format
    FAILED    reason: the numbers went wrong here, which ends the run
server to worker, `number` that of the push, 0 without one:
    ANSWER    outcome, version, lr, staleness, left, leases, weights; with `weights` the body is these
    LEASES    leases, for one that had none
    DONE      status, reason: the run is over
    REFUSED   reason: nothing more is heard from this worker, which would say the same again

`leases` is a flat list: number, first sample, samples, and so on. `base` is the version of the weights that a worker
pulled last, `version` the server's updates so far. `left` is how many samples of the run are not applied yet, `lr` the
rate of the update that this worker's next gradient is for.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Literal

from smolcluster.comm.letter import Letter
from smolcluster.errors import ProtocolError
from smolcluster.strategies.star.leases import Lease

# What became of a push. "" is: applied.
APPLIED = ""
Weights = Literal["", "full", "change"]


class Op(IntEnum):
    """What a letter is for."""

    PUSH = 1
    FAILED = 2
    ANSWER = 16
    LEASES = 17
    DONE = 18
    REFUSED = 19


def op_of(letter: Letter) -> Op:
    """ProtocolError if it is none of these."""
    try:
        return Op(letter.op)
    except ValueError as error:
        raise ProtocolError(f"a letter of the unknown kind {letter.op} came") from error


def flat_leases(leases: Iterable[Lease]) -> list[int]:
    """As they travel."""
    return [number for lease in leases for number in (lease.number, lease.start, lease.count)]


def leases_in(letter: Letter) -> list[Lease]:
    """The leases that a letter brings. ProtocolError if they are none."""
    flat = letter.numbers("leases")
    if len(flat) % 3 or any(number < 0 for number in flat):
        raise ProtocolError(f"a letter's leases cannot be read: {str(flat)[:80]}")
    return [Lease(*flat[at : at + 3]) for at in range(0, len(flat), 3)]
