"""Where each machine of a run says its figures to Prometheus: `metrics_port` of the cluster's YAML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from smolcluster.plan.ports import Listener, ports_of
from smolcluster.plan.types import Plan, ServePlan
from smolcluster.spec.values import is_loopback

_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Exporter:
    """One machine's: its own addresses that ranks listen on, and the port on all of them."""

    node: str
    addresses: tuple[str, ...]
    port: int

    @property
    def asks_for_key(self) -> bool:
        """Whether somebody besides this machine can dial it."""
        return not all(map(is_loopback, self.addresses))


def exporters_of(plan: Plan | ServePlan) -> tuple[Exporter, ...]:
    """By machine, in rank order; none where `metrics_port` is 0. Machines that share an address take ports in a row."""
    comm = (plan.serve if isinstance(plan, ServePlan) else plan.run).comm
    return exporters_at([(rank.node, rank.listen) for rank in plan.ranks], comm.metrics_port)


def exporters_at(ranks: Sequence[tuple[str, tuple[str, ...]]], metrics_port: int) -> tuple[Exporter, ...]:
    """The same for ranks of which the machine and its own addresses are known."""
    if not metrics_port:
        return ()
    listen: dict[str, dict[str, None]] = {}
    for node, mine in ranks:
        listen.setdefault(node, {}).update(dict.fromkeys(mine))
    addresses = [tuple(each) or (_LOOPBACK,) for each in listen.values()]
    ports = ports_of([(node, metrics_port) for node in listen], addresses)
    return tuple(
        Exporter(node, where, ports[index]) for index, (node, where) in enumerate(zip(listen, addresses, strict=True))
    )


def exporter_listeners(ranks: Sequence[tuple[str, tuple[str, ...]]], metrics_port: int) -> list[Listener]:
    """Who listens for them, to see that nobody is in anybody's way."""
    found = exporters_at(ranks, metrics_port)
    return [Listener(f"metrics_port ({each.node})", each.node, each.addresses, each.port) for each in found]
