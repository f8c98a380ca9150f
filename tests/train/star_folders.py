"""Plans of runs with a server, small enough that a training takes seconds. Rank 0 is the server."""

from __future__ import annotations

from typing import Any

from smolcluster.plan.types import Plan
from smolcluster.spec.run import CommSpec, Participant, RecoverySpec, WireFormat
from tests.train.train_folders import plan_of, run_spec


def star_plan(
    shares: tuple[int, ...],
    strategy: str = "edp",
    interval: int = 1,
    wire: WireFormat = "fp32",
    timeout_s: float = 20.0,
    recovery: RecoverySpec | None = None,
    faults: tuple[Any, ...] = (),
    settings: dict[str, Any] | None = None,
    **training: Any,
) -> Plan:
    """A server on node1 and a worker on a node of its own for each share. `settings` are the run's own."""
    run = run_spec(strategy, (0, *shares), **training)
    run = run.model_copy(
        update={
            "participants": tuple(
                Participant(node=f"node{rank + 1}", port=0, role="worker" if rank else "server")
                for rank in range(len(shares) + 1)
            ),
            "worker_update_interval": interval,
            "comm": CommSpec(timeout_s=timeout_s, metrics_log_interval=5),
            "recovery": recovery or RecoverySpec(),
            "faults": faults,
            **(settings or {}),
        }
    )
    plan = plan_of(run, (0, *shares))
    ranks = tuple(
        rank.model_copy(
            update={
                "role": "worker" if rank.rank else "server",
                "listen": () if rank.rank else ("127.0.0.1",),
                "peers": {0: "127.0.0.1"} if rank.rank else dict.fromkeys(range(1, len(shares) + 1), "127.0.0.1"),
                "encrypt": {},
            }
        )
        for rank in plan.ranks
    )
    return plan.model_copy(update={"shape": "STAR", "ranks": ranks, "wire": wire})
