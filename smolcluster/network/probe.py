"""Runs on machines, with nothing but Python's standard library: measures the way between two addresses.

    python3 probe.py serve ADDRESS SECONDS [PORT]           {"port": ...}, then answers for so many seconds
    python3 probe.py start SECONDS [FIRST-LAST] ADDRESS...  {"ports": {ADDRESS: ...}}; the same, and returns at once
    python3 probe.py stop ADDRESS PORT [ADDRESS PORT] ...   ends them before their time
    python3 probe.py dial FROM TO PORT [FROM TO PORT] ...   {"dialled": {TO: null, or why it was not reached}}
    python3 probe.py measure FROM TO PORT SECONDS BYTES     {"rtt_ms": ..., "mbps": ..., "bytes": ...}
    python3 probe.py ping KIND FROM MTU TO... [-- FROM MTU TO...] ...
                                                            {"pings": {TO: {"rtt_ms", "hops", "mtu"}}}, a line for each
                                                            FROM, then {"neighbours": "what the OS's own tool says"}

KIND is the inventory's: macos, linux, windows. JSON lines on stdout; what could not be had is null. Everything has a
deadline. The server is bound to the one own address it is given, keeps nothing of what it reads, and takes one
connection at a time.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

ECHOES = 32
CHUNK = 1 << 18
MOST_BYTES = 1 << 33
WAIT_S = 10.0
# An IPv4 header and ICMP's.
_HEADERS = 28
_SMALLEST = 576
_MOST_HOPS = 8
# What does not answer costs its deadline; so few at once do not disturb each other's round trips.
_AT_ONCE = 3
# A packet may be lost on any Wi-Fi: what does not answer is asked again. And a starved machine takes its time to ask.
_TRIES, _PING_S = 3, 30.0
_PLATFORMS = {"macos": "darwin", "linux": "linux", "windows": "win32"}
_NEIGHBOURS = {"linux": ["ip", "-j", "neigh"], "darwin": ["arp", "-an"], "win32": ["arp", "-a"]}
# A system sends the first packet again after 1, 3 and 7 seconds, in case a router was asleep.
_DIAL_S = 8.0
# Who answered, in the words of each OS; ping's first line may name the own address after a "from" too.
_ANSWER = re.compile(r"^(?:From|Reply from|\d+ bytes from) ([0-9.]+)", re.M)
_TIME = re.compile(r"time[=<]([0-9.]+) ?ms")


class Deadline:
    """Seconds that are left of a fixed span."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds left. TimeoutError when there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time is over")
        return left


def own_address(text: str) -> str:
    """An address to listen at. ValueError for one that means every interface, or none."""
    ip = ipaddress.ip_address(text)
    if ip.is_unspecified or ip.is_multicast:
        raise ValueError(f"{text} is no address of one interface")
    return text


def listen(address: str, ports: Sequence[int] = (0,)) -> socket.socket:
    """A listening socket at that one address and the first of the ports that is free. OSError if none is."""
    family = socket.AF_INET6 if ":" in own_address(address) else socket.AF_INET
    server = socket.socket(family, socket.SOCK_STREAM)
    try:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for port in ports:
            try:
                server.bind((address, port))
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE or port == ports[-1]:
                    raise
        server.listen(8)
    except OSError:
        server.close()
        raise
    return server


def serve(server: socket.socket, seconds: float) -> int:
    """Answer one client after the other until the time is over; how many there were."""
    deadline, clients = Deadline(seconds), 0
    while True:
        try:
            server.settimeout(deadline.left())
            client, _ = server.accept()
        except TimeoutError:
            return clients
        with client:
            clients += 1
            try:
                if _answer(client, deadline):
                    return clients
            except OSError:
                continue  # this client went away or was too slow; the next may come


def _answer(client: socket.socket, deadline: Deadline) -> bool:
    """`e` and bytes to echo, or `s` and bytes to swallow, whose count goes back when the sender has closed its side.

    True for `q` from the own machine: that was the last one.
    """
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.settimeout(min(WAIT_S, deadline.left()))
    what = client.recv(1)
    if what == b"q":
        return bool(client.getpeername()[0] == client.getsockname()[0])
    if what == b"e":
        for _ in range(ECHOES):
            byte = client.recv(1)
            if not byte:
                return False
            client.sendall(byte)
    elif what == b"s":
        count, buffer = 0, bytearray(CHUNK)
        while count <= MOST_BYTES:
            client.settimeout(min(WAIT_S, deadline.left()))
            got = client.recv_into(buffer)
            if not got:
                break
            count += got
        client.sendall(count.to_bytes(8, "big"))
    return False


def start(seconds: float, addresses: Sequence[str], within: Sequence[int] = (0,)) -> dict[str, int]:
    """Servers in processes of their own, which end when the time is over; their ports, 0: any. An address that this
    machine does not have is left out, and why told on stderr."""
    ports: dict[str, int] = {}
    for address in addresses:
        try:
            server = listen(address, within)
        except OSError as error:
            print(f"{address}: {error.strerror or error}", file=sys.stderr)
            continue
        ports[address] = server.getsockname()[1]
        if os.fork() == 0:
            try:
                os.setsid()
                nothing = os.open(os.devnull, os.O_RDWR)
                for stream in (0, 1, 2):
                    os.dup2(nothing, stream)
                serve(server, seconds)
            finally:
                os._exit(0)
        server.close()
    return ports


def stop(address: str, port: int) -> None:
    """End a server of this machine. Nothing happens where there is none."""
    try:
        with socket.create_connection((address, port), WAIT_S, (address, 0)) as link:
            link.sendall(b"q")
            link.settimeout(WAIT_S)
            link.recv(1)
    except OSError:
        pass


def dial(source: str, target: str, port: int) -> str | None:
    """Whether a connection from one address to another comes about: None, or why not."""
    try:
        socket.create_connection((target, port), _DIAL_S, (own_address(source), 0)).close()
    except TimeoutError:
        return f"nothing came back in {_DIAL_S:g} s"
    except OSError as error:
        return error.strerror or str(error)
    return None


def dial_all(ways: Sequence[tuple[str, str, int]]) -> dict[str, str | None]:
    """The same for each way (from, to, port), a few at the same time; by what was dialled."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = {target: pool.submit(dial, source, target, port) for source, target, port in ways}
        return {target: answer.result() for target, answer in answers.items()}


def measure(source: str, target: str, port: int, seconds: float, limit: int) -> dict[str, float | int | None]:
    """Median round trip and bandwidth from one address to another. OSError when it cannot be reached."""
    deadline = Deadline(seconds + 2 * WAIT_S)
    with _connect(source, target, port, deadline) as echo:
        trips = _echo(echo, deadline)
    with _connect(source, target, port, deadline) as sink:
        sent, took = _send(sink, seconds, min(limit, MOST_BYTES), deadline)
    mbps = round(sent * 8 / took / 1e6, 1) if took > 0 else None
    return {"rtt_ms": round(sorted(trips)[len(trips) // 2] * 1e3, 3), "mbps": mbps, "bytes": sent}


def _connect(source: str, target: str, port: int, deadline: Deadline) -> socket.socket:
    link = socket.create_connection((target, port), min(WAIT_S, deadline.left()), (own_address(source), 0))
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return link


def _echo(link: socket.socket, deadline: Deadline) -> list[float]:
    link.settimeout(min(WAIT_S, deadline.left()))
    link.sendall(b"e")
    trips = []
    for _ in range(ECHOES):
        began = time.perf_counter()
        link.sendall(b"x")
        if not link.recv(1):
            raise ConnectionError("the other end closed the connection")
        trips.append(time.perf_counter() - began)
    return trips


def _send(link: socket.socket, seconds: float, limit: int, deadline: Deadline) -> tuple[int, float]:
    """Send for so long or so much; what the other end has read, and the seconds until it said so."""
    block, sent, began = memoryview(bytes(CHUNK)), 0, time.perf_counter()
    link.settimeout(min(WAIT_S, deadline.left()))
    link.sendall(b"s")
    while sent < limit and time.perf_counter() - began < seconds:
        link.settimeout(min(WAIT_S, deadline.left()))
        sent += link.send(block[: min(CHUNK, limit - sent)])
    link.shutdown(socket.SHUT_WR)
    link.settimeout(min(WAIT_S, deadline.left()))
    answer = b""
    while len(answer) < 8:
        more = link.recv(8 - len(answer))
        if not more:
            raise ConnectionError("the other end closed the connection")
        answer += more
    return int.from_bytes(answer, "big"), time.perf_counter() - began


def ping_command(platform: str, source: str, target: str, size: int, ttl: int | None, whole: bool) -> list[str]:
    """One echo request of `size` bytes of payload, `whole`: it may not be cut into pieces; by each OS's own ping."""
    if platform == "darwin":
        more = [*(["-D"] if whole else []), *(["-m", str(ttl)] if ttl else [])]
        return ["ping", "-n", "-c", "1", "-t", "2", "-s", str(size), "-S", source, *more, target]
    if platform == "win32":
        more = [*(["-f"] if whole else []), *(["-i", str(ttl)] if ttl else [])]
        return ["ping", "-n", "1", "-w", "2000", "-l", str(size), "-S", source, *more, target]
    more = [*(["-M", "do"] if whole else []), *(["-t", str(ttl)] if ttl else [])]
    return ["ping", "-n", "-c", "1", "-W", "2", "-s", str(size), "-I", source, *more, target]


def ping(
    platform: str, source: str, target: str, size: int = 56, ttl: int | None = None, whole: bool = False
) -> tuple[int, str]:
    """The exit code and the text of one ping. FileNotFoundError where there is none."""
    command = ping_command(platform, source, target, size, ttl, whole)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PING_S, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return 1, ""
    return done.returncode, done.stdout


def survey(platform: str, source: str, target: str, mtu: int) -> dict[str, object]:
    """Round trip, the gateways on the way, and the largest packet up to `mtu` that passes whole."""
    try:
        for _ in range(_TRIES):
            code, text = ping(platform, source, target)
            answered = code == 0 and "TTL expired" not in text and "unreachable" not in text
            if answered:
                break
        else:
            return {"rtt_ms": None, "hops": None, "mtu": None}
        trip = _TIME.search(text)
        return {
            "rtt_ms": float(trip[1]) if trip else None,
            "hops": _hops(platform, source, target),
            "mtu": _largest(platform, source, target, mtu),
        }
    except FileNotFoundError:
        return {"rtt_ms": None, "hops": None, "mtu": None, "error": "there is no ping here"}


def survey_all(platform: str, groups: Sequence[Sequence[str]]) -> list[dict[str, dict[str, object]]]:
    """Each group is FROM MTU TO...; a few are asked at the same time."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        asked = [
            {target: pool.submit(survey, platform, own_address(source), target, int(mtu)) for target in targets}
            for source, mtu, *targets in groups
        ]
        return [{target: answer.result() for target, answer in group.items()} for group in asked]


def neighbours(platform: str) -> str:
    """Which hardware address answers at which address, in the words of the OS's own tool; empty where there is none."""
    # Debian's users have no sbin in PATH.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    try:
        done = subprocess.run(
            _NEIGHBOURS[platform],
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PATH": path},
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _grouped(words: Sequence[str]) -> list[list[str]]:
    """The command line's groups, which `--` parts. ValueError for one that is too short."""
    groups: list[list[str]] = [[]]
    for word in words:
        if word == "--":
            groups.append([])
        else:
            groups[-1].append(word)
    if any(len(group) < 3 for group in groups):
        raise ValueError("ping wants FROM MTU TO...")
    return groups


def _hops(platform: str, source: str, target: str) -> list[str]:
    """Who says that a packet's time to live is over, one hop after the other."""
    hops: list[str] = []
    for ttl in range(1, _MOST_HOPS + 1):
        for _ in range(_TRIES):
            _, text = ping(platform, source, target, ttl=ttl)
            if (answer := _ANSWER.search(text)) is not None:
                break
        if answer is not None and answer[1] == target:
            break
        hops.append(answer[1] if answer is not None else "?")
    return hops


def _largest(platform: str, source: str, target: str, most: int) -> int | None:
    """By halving; None when not even the smallest passes."""

    def passes(mtu: int, tries: int = 1) -> bool:
        for _ in range(tries):
            code, text = ping(platform, source, target, size=mtu - _HEADERS, whole=True)
            if code == 0 and "fragmented" not in text:
                return True
        return False

    if passes(most, _TRIES):
        return most
    low, high = _SMALLEST, most
    if not passes(low):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if passes(middle) else (low, middle)
    return low


def main(arguments: Sequence[str]) -> int:
    """Exit codes: 0 measured, 2 a wrong call, 3 the other end could not be reached."""
    try:
        match list(arguments):
            case ["serve", address, seconds, *port] if len(port) < 2:
                with listen(address, (int(port[0]) if port else 0,)) as server:
                    print(json.dumps({"port": server.getsockname()[1]}), flush=True)
                    serve(server, float(seconds))
            case ["measure", source, target, port, seconds, limit]:
                print(json.dumps(measure(source, target, int(port), float(seconds), int(limit))))
            case ["start", seconds, ports, *addresses] if addresses and "-" in ports:
                first, last = map(int, ports.split("-"))
                print(json.dumps({"ports": start(float(seconds), addresses, range(first, last + 1))}))
            case ["start", seconds, *addresses] if addresses:
                print(json.dumps({"ports": start(float(seconds), addresses)}))
            case ["dial", *words] if words and len(words) % 3 == 0:
                ways = zip(words[::3], words[1::3], map(int, words[2::3]), strict=True)
                print(json.dumps({"dialled": dial_all([*ways])}))
            case ["stop", *words] if words and len(words) % 2 == 0:
                for address, port in zip(words[::2], words[1::2], strict=True):
                    stop(own_address(address), int(port))
            case ["ping", kind, *words] if kind in _PLATFORMS:
                for pings in survey_all(_PLATFORMS[kind], _grouped(words)):
                    print(json.dumps({"pings": pings}))
                print(json.dumps({"neighbours": neighbours(_PLATFORMS[kind])}))
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except ValueError as error:
        print(f"probe: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(json.dumps({"error": str(error)}))
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
