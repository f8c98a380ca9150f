"""Carries frames between two interfaces, late and with losses: what netem would do where the kernel has it.

    python -m inside.relay ONE OTHER LATENCY_MS LOSS SEED

Prints a line when it carries; ends at the end of standard input. Frames keep the kernel's header for large packets that
are cut later and checksums that are computed later (packet(7), PACKET_VNET_HDR), so nothing has to be recomputed here.
"""

from __future__ import annotations

import random
import select
import socket
import sys
import time
from collections import deque

_ALL_PROTOCOLS = 0x0003
_SOL_PACKET = 263
_VNET_HEADER, _IGNORE_OUTGOING = 15, 23
_LARGEST = 65_536 + 256
_AT_ONCE = 64
_BUFFER_BYTES = 8 << 20


def main() -> None:
    one, other, latency_ms, loss, seed = sys.argv[1:]
    ends = [_open(one), _open(other)]
    lose, latency_s = float(loss), float(latency_ms) / 1000
    chance = random.Random(int(seed))
    # Frames wait in the order they came: all wait equally long.
    waiting: deque[tuple[float, socket.socket, bytes]] = deque()
    print("carrying", flush=True)
    while True:
        pause = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        readable, _, _ = select.select([*ends, sys.stdin], [], [], pause)
        if sys.stdin in readable:
            return
        for end in [end for end in ends if end in readable]:
            target = ends[1] if end is ends[0] else ends[0]
            for frame in _received(end):
                if chance.random() >= lose:
                    waiting.append((time.monotonic() + latency_s, target, frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, target, frame = waiting.popleft()
            _send(target, frame)


def _open(interface: str) -> socket.socket:
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    end.setsockopt(_SOL_PACKET, _VNET_HEADER, 1)
    end.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        end.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
    end.setblocking(False)
    end.bind((interface, _ALL_PROTOCOLS))
    return end


def _received(end: socket.socket) -> list[bytes]:
    frames: list[bytes] = []
    try:
        while len(frames) < _AT_ONCE:
            frames.append(end.recv(_LARGEST))
    except OSError:
        # Nothing more for now, or the interface went down for a moment.
        pass
    return frames


def _send(end: socket.socket, frame: bytes) -> None:
    try:
        end.send(frame)
    except OSError:
        # A full queue or a cable that was pulled loses frames, as wires do.
        return


if __name__ == "__main__":
    main()
