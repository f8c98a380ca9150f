"""Ranks on a switch: a network namespace for each, and a cable from it whose speed can be set.

    with Switch(3) as switch:
        switch.speed(100)
        with Team(3, "smol", setup, keep_memory=True, places=switch.places) as team: ...

Nothing of it touches the machine's own network. A namespace is there as long as a process is in it; those that hold
them end with this one, however it ends.
"""

from __future__ import annotations

import subprocess
from types import TracebackType

from benchmarks.ranks import Place
from tests.lab.allowed import why_no_namespaces
from tests.lab.link import shaping

__all__ = ["Switch", "why_no_namespaces"]

_COMMAND_S = 30.0
_DEVICE = "eth0"


class Switch:
    """Up from the moment the context is entered; cables are as fast as the machine until `speed` is called."""

    def __init__(self, ranks: int) -> None:
        self._ranks = ranks
        self._holders: list[subprocess.Popen[bytes]] = []
        self.places: tuple[Place, ...] = ()

    def __enter__(self) -> Switch:
        try:
            switch, *hosts = (self._hold() for _ in range(self._ranks + 1))
            _ip(switch, "link add switch type bridge forward_delay 0 mcast_snooping 0", "link set switch up")
            for rank, host in enumerate(hosts):
                _ip(
                    switch,
                    f"link add port{rank} type veth peer name {_DEVICE} netns /proc/{host}/ns/net",
                    f"link set port{rank} master switch up",
                )
                _ip(host, "link set lo up", f"address add 10.0.0.{rank + 1}/24 dev {_DEVICE}", f"link set {_DEVICE} up")
            self.places = tuple(Place(f"10.0.0.{rank + 1}", _DEVICE, host) for rank, host in enumerate(hosts))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def speed(self, mbps: float) -> None:
        """Megabits a second of every cable from now on, in each direction."""
        ends = [(self._holders[0].pid, f"port{rank}") for rank in range(self._ranks)]
        ends += [(holder.pid, _DEVICE) for holder in self._holders[1:]]
        for namespace, device in ends:
            _run(namespace, ["tc", "qdisc", "replace", "dev", device, "root", *shaping(mbps).split()])

    def close(self) -> None:
        """Let the namespaces go. More than once is no harm."""
        holders, self._holders = self._holders, []
        for holder in holders:
            assert holder.stdin is not None
            assert holder.stdout is not None
            holder.stdin.close()
            holder.stdout.close()
            holder.wait(_COMMAND_S)

    def _hold(self) -> int:
        """A process in a network namespace of its own, which ends when nobody can write to it any more."""
        holder = subprocess.Popen(
            ["unshare", "--net", "--", "sh", "-c", "echo there && exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Ctrl-C is for whoever measures, who then ends it in order.
            start_new_session=True,
        )
        self._holders.append(holder)
        assert holder.stdout is not None
        if not holder.stdout.readline():
            raise RuntimeError("a network namespace could not be made; the reason stands above")
        return holder.pid


def _ip(namespace: int, *lines: str) -> None:
    _run(namespace, ["ip", "-batch", "-"], "\n".join(lines))


def _run(namespace: int, command: list[str], text: str = "") -> None:
    """Run a program in the network namespace of a process. RuntimeError with its words."""
    done = subprocess.run(
        ["nsenter", "--target", str(namespace), "--net", "--", *command],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=_COMMAND_S,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
