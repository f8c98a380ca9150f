"""A cable, or one host's place on the Wi-Fi: pull it, plug it in, change its speed, make it slow to answer."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from .disk import PYTHON
from .outside import LabError, Outside
from .wiring import SPEEDS_MBPS, Port, Segment

_HERE = Path(__file__).parent
# A burst holds what the kernel lets through between two ticks, and at least a large packet as hosts hand them over.
_TICK_S, _LEAST_BURST_BYTES = 0.004, 65_536 * 2
_QUEUE_MS = 50


def shaping(mbps: float) -> str:
    """A token bucket in tc's words, for megabits a second."""
    burst = max(_LEAST_BURST_BYTES, int(mbps * 1e6 / 8 * _TICK_S))
    return f"tbf rate {int(mbps * 1e6)}bit burst {burst} latency {_QUEUE_MS}ms"


class Link:
    """`ports` are both ends of a cable, or the one of a host on the Wi-Fi. Both directions are treated alike."""

    def __init__(
        self,
        segment: Segment,
        ports: tuple[Port, ...],
        outside: Outside,
        pid_of: Callable[[str], int],
        changed: Callable[[], None],
    ) -> None:
        self.segment = segment
        self.ports = ports
        self.mbps = SPEEDS_MBPS[segment.medium]
        self.plugged = True
        self._outside = outside
        self._pid_of = pid_of
        self._changed = changed
        self._relays: list[subprocess.Popen[bytes]] = []

    def down(self) -> None:
        """Pull it: both ends lose their carrier."""
        self._end_relay()
        self.plugged = False
        self._changed()

    def up(self) -> None:
        """Plug it in again."""
        self.plugged = True
        self._changed()

    def speed(self, mbps: float | None) -> None:
        """Megabits a second in each direction from now on; None for no limit."""
        self.mbps = mbps
        words = "replace dev {} root " + shaping(mbps) if mbps else "del dev {} root"
        for port in self.ports:
            _tc(self._outside.pid, words.format(port.outer))
            if pid := self._pid_of(port.host):
                _tc(pid, words.format(port.device))

    def carried_bytes(self) -> int:
        """Bytes that have gone through it since its hosts were switched on, both directions, headers included."""
        found = json.loads(self._outside.run(["ip", "-json", "-stats", "link", "show"]))
        counted = {each["ifname"]: each["stats64"] for each in found}
        # What comes in at one end of a cable goes out at the other: count it once.
        ends = self.ports[:1] if len(self.ports) == 2 else self.ports
        return sum(counted[port.outer][way]["bytes"] for port in ends for way in ("rx", "tx"))

    def relay(self, latency_ms: float = 0.0, loss: float = 0.0, seed: int = 0) -> None:
        """Let a relay carry every frame from now on: it waits so long in each direction and loses such a share of them,
        the same ones for the same seed. `relay()` takes it out again, and so do a pulled cable and
        a host that is switched off."""
        self._end_relay()
        if not latency_ms and not loss:
            return
        port = self.ports[0]
        if not self.plugged or not self._pid_of(port.host):
            raise LabError("a relay needs a link that is up")
        near, far = f"{port.outer}r", f"{port.outer}s"
        self._outside.ip(
            f"link add {near} mtu {port.max_mtu} type veth peer name {far} mtu {port.max_mtu}",
            f"link set {port.outer} nomaster",
            f"link set {near} up",
            f"link set {far} master {self.segment.bridge} up",
        )
        command = [
            PYTHON,
            "-P",
            "-S",
            "-s",
            "-m",
            "inside.relay",
            port.outer,
            near,
            str(latency_ms),
            str(loss),
            str(seed),
        ]
        relay = subprocess.Popen(
            [*self._outside.entering(network_only=True), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": str(_HERE)},
            start_new_session=True,
        )
        self._relays.append(relay)
        assert relay.stdout is not None
        if not relay.stdout.readline():
            raise LabError("the relay did not start; the reason stands above")

    def close(self) -> None:
        """End what runs for it."""
        self._end_relay()

    def carriers(self) -> list[str]:
        """`ip` commands that give its ends a carrier, or none: it needs a machine that is on at each end."""
        on = [port for port in self.ports if self._pid_of(port.host)]
        state = "up" if self.plugged and len(on) == len(self.ports) else "down"
        return [f"link set {port.outer} {state}" for port in on]

    def _end_relay(self) -> None:
        for relay in self._relays:
            assert relay.stdin is not None
            assert relay.stdout is not None
            relay.stdin.close()
            relay.wait(10)
            relay.stdout.close()
            port = self.ports[0]
            self._outside.forget(f"{port.outer}r")
            if self._pid_of(port.host):
                self._outside.ip(f"link set {port.outer} master {self.segment.bridge}")
        self._relays.clear()


def _tc(pid: int, words: str) -> None:
    """A tc command in the network namespace of a process. Taking off what is not there is no error."""
    command = ["nsenter", "--target", str(pid), "--net", "--", "tc", "qdisc", *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode and not words.startswith("del"):
        raise LabError(f"tc {words}: {done.stderr.strip()}")
