"""The numbers of the protocol of tablets: its version, the kinds of message, why something fails, how much is most."""

from __future__ import annotations

from enum import IntEnum

VERSION = 1
MAGIC = b"ST"
# Before a proof, and for every message that carries neither hidden states nor a piece of a file.
MOST_SMALL = 16 << 10
# Of hidden states: 512 tokens of a model of width 32,768 in fp32.
MOST_BYTES = 64 << 20
# Of a file in one PIECE: half a second of a poor Wi-Fi, in which no sign of life passes.
MOST_PIECE = 1 << 20
# Of a package's listing, which a tablet holds in memory.
MOST_LISTING = 1 << 20
PROOF_BYTES = 32
MOST_REASON = 1000


class Kind(IntEnum):
    """The second number of a message."""

    HELLO = 1
    CHALLENGE = 2
    PROOF = 3
    WELCOME = 4
    ASSIGN = 5
    READY = 6
    FETCH = 7
    PIECE = 8
    OPEN = 16
    FORWARD = 17
    RESULT = 18
    FORGET = 19
    PING = 32
    PONG = 33
    ERROR = 34


class Code(IntEnum):
    """Why something was not done. Those from 16 on end a session, the others the connection."""

    VERSION = 1
    REFUSED = 2
    WRONG_STAGE = 3
    BAD_MESSAGE = 4
    LEAVING = 5
    NO_FILE = 6
    UNKNOWN_SESSION = 16
    OUT_OF_ORDER = 17
    FULL = 18
    FAILED = 19

    @property
    def of_session(self) -> bool:
        """Whether the connection goes on."""
        return self >= Code.UNKNOWN_SESSION
