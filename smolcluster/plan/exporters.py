"""Where each machine of a run says its figures to Prometheus: `metrics_port` of the cluster's YAML."""

from __future__ import annotations

from dataclasses import dataclass

from smolcluster.plan.ports import ports_of
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
    if not comm.metrics_port:
        return ()
    listen: dict[str, dict[str, None]] = {}
    for rank in plan.ranks:
        listen.setdefault(rank.node, {}).update(dict.fromkeys(rank.listen))
    addresses = [tuple(each) or (_LOOPBACK,) for each in listen.values()]
    ports = ports_of([(node, comm.metrics_port) for node in listen], addresses)
    return tuple(
        Exporter(node, where, ports[index]) for index, (node, where) in enumerate(zip(listen, addresses, strict=True))
    )
