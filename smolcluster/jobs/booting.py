"""A supervisor that the system started with the machine: it serves its part of a model again, and goes on trying.

Nobody tells the nodes to begin, and they do not begin together: after a power cut a Mac is up in seconds, a Pi in a
minute, a switch later than both. So there is nothing to agree on. A served model's ranks are all of one generation, as
when one of them is started again alone (restarts.py): stages dial the head until it is there, the head takes in whom it
hears from and plans over them, and takes in later ones as they come.

What a node must wait for by itself are its own addresses, and what a supervisor would call the end of the run, a peer
that did not come in all its restarts, is here a reason to begin again after a pause.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from smolcluster.jobs.bootservice import is_wanted
from smolcluster.jobs.nodefile import load_node, load_plan, ranks_of
from smolcluster.jobs.registry import Registry
from smolcluster.jobs.restarts import FINAL_CODES
from smolcluster.jobs.verdict import INTERRUPTED
from smolcluster.plan.types import Plan, RankPlan, ServePlan

_log = logging.getLogger("smolcluster.supervisor")
# How long an address may take to be there: a switch that starts with the machine, then DHCP.
ADDRESSES_S = 300.0
# Between two attempts to serve, and two looks at the addresses.
PAUSE_S = 30.0
_LOOK_S = 1.0

Wait = Callable[[float], bool]


class Stopped:
    """Whether this process was asked to end. `ask` may be called by a signal handler: a queue is safe there."""

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._is = False

    def ask(self) -> None:
        """Ask it to."""
        self._asked.put(None)

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until it was asked. Whether it was."""
        with contextlib.suppress(queue.Empty):
            if not self._is:
                self._asked.get(timeout=seconds)
                self._is = True
        return self._is


def serve_from_boot(
    node_file: Path, attempt: Callable[[], int], wait: Wait, pause_s: float = PAUSE_S, addresses_s: float = ADDRESSES_S
) -> int:
    """Serve until told to stop, or until this node is to serve something else; the exit code.

    `attempt` runs one supervisor to its end; `wait(seconds)` pauses and says whether to stop. ConfigError for a
    node.yaml or plan that cannot be used; JobRefused if another run has the node.
    """
    config = load_node(node_file)
    plan = load_plan(config)
    addresses = own_addresses(plan, ranks_of(config, plan))
    if not is_wanted(config):
        _log.info("%s is not to be served at boot any more; nothing was started", config.run_id)
        return 0
    if Registry.of_run(config.run_dir, config.node).active_in(config.run_dir) is not None:
        _log.info("%s is served already", config.run_id)
        return 0
    if _await(addresses, wait, addresses_s):
        return 0
    while is_wanted(config):
        code = attempt()
        if code in (0, INTERRUPTED):
            return 0
        if code in FINAL_CODES:
            return code
        _log.info("serving failed; it is tried again in %g s", pause_s)
        if wait(pause_s):
            return 0
    return 0


def own_addresses(plan: Plan | ServePlan, ranks: Iterable[RankPlan]) -> list[str]:
    """Those of this machine that its ranks listen on: with the API's, and those of pages that tablets open."""
    addresses: list[str] = []
    for rank in ranks:
        addresses += rank.listen
        if not isinstance(plan, ServePlan):
            continue
        if rank.rank == plan.api.rank:
            addresses += plan.api.listen
        tablet = plan.tablets.get(rank.rank)
        if tablet is not None and tablet.app == "browser":
            addresses.append(tablet.host)
    return addresses


def _await(addresses: list[str], wait: Wait, within_s: float) -> bool:
    """Wait until this machine has its addresses, at most so long: then what fails says so. Whether to stop."""
    end = time.monotonic() + within_s
    told: tuple[str, ...] = ()
    while lacking := missing(addresses):
        if lacking != told:
            _log.info("waiting for %s: not an address of this machine yet", ", ".join(lacking))
            told = lacking
        if time.monotonic() > end:
            _log.warning("it has no %s after %g s; trying all the same", ", ".join(lacking), within_s)
            return False
        if wait(_LOOK_S):
            return True
    return False


def missing(addresses: Iterable[str]) -> tuple[str, ...]:
    """Those that this machine cannot listen on now, each once."""
    return tuple(address for address in dict.fromkeys(addresses) if not _is_here(address))


def _is_here(address: str) -> bool:
    try:
        found = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return False
    for family, kind, protocol, _, where in found:
        with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as probe:
            probe.bind(where)
            return True
    return False
