"""Everything a rank needs to know to join its group. It comes from a plan, or from torchrun's environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from smolcluster.comm.faults import Faults
from smolcluster.comm.tls import TlsContexts
from smolcluster.errors import ConfigError, Problem
from smolcluster.plan.types import Plan, RankPlan, ServePlan

# A Pi that evaluates its share of a text takes minutes; c10d's own default is as long.
OPERATION_S = 1800.0
# All ranks import torch first: most of a minute from a slow SD card.
JOIN_S = 150.0
# A rank of a served model is started again alone, and its last process may hold the port for a moment.
_SERVING_BIND_S = 10.0


def nobody_asks(generation: int) -> None:
    """What is called on entering where nobody notes it: by name, so that a GroupConfig can go to another process."""


@dataclass(frozen=True)
class GroupConfig:
    """One rank's view. `listen` are its own addresses, `peers[r]` the host to dial for rank r.

    `port` 0 takes a free one. `peer_ports[r]` 0 or missing: rank r publishes it in the store; rank 0, which keeps the
    store, writes it to `endpoint_file`, which ranks on its machine read. `encrypt[r]`: the link to r runs in TLS.
    `timeout_s`: a rank not heard from for that long is an error; heartbeats say that one lives, however long it
    computes. `operation_s` (0: `timeout_s`) is how long an operation waits for ranks that live, `join_s` (0:
    `timeout_s`) how long ranks may take to start.

    `after`: join the generation that rank 0 is in, if it is later than this one, instead of `generation`; `entered` is
    called with it when rank 0 has been reached. `bind_s`: how long a port may still be held by an earlier start.
    `faults`: what is to be broken on purpose; None in every run whose config does not ask for it. `sounds`: measure how
    long the ways to the other ranks and back take.
    """

    rank: int
    world_size: int
    listen: tuple[str, ...]
    port: int
    peers: Mapping[int, str]
    peer_ports: Mapping[int, int] = field(default_factory=dict)
    encrypt: Mapping[int, bool] = field(default_factory=dict)
    buffer_bytes: int = 8 << 20
    timeout_s: float = 60.0
    run_id: str = "run"
    generation: int = 0
    digest: str = ""
    secret: bytes = field(default=b"", repr=False)
    endpoint_file: Path | None = None
    transport: Literal["smol", "gloo"] = "smol"
    tls: TlsContexts | None = None
    join_s: float = 0.0
    operation_s: float = 0.0
    after: int | None = None
    entered: Callable[[int], None] = nobody_asks
    bind_s: float = 0.0
    faults: Faults | None = None
    sounds: bool = False

    @classmethod
    def from_plan(
        cls,
        plan: Plan | ServePlan,
        me: RankPlan,
        run_id: str,
        generation: int,
        secret: bytes,
        endpoint_file: Path | None,
        tls: TlsContexts | None = None,
        after: int | None = None,
        entered: Callable[[int], None] = nobody_asks,
    ) -> GroupConfig:
        """The view of rank `me` of a plan. `secret` is the run's, from its file."""
        comm = (plan.serve if isinstance(plan, ServePlan) else plan.run).comm
        timeout_s = comm.timeout_s
        join_s = max(JOIN_S, timeout_s)
        restarted = (generation if after is None else after + 1) > 0
        bind_s = _SERVING_BIND_S if isinstance(plan, ServePlan) else 0.0
        return cls(
            rank=me.rank,
            world_size=plan.world_size,
            listen=me.listen,
            port=me.port,
            peers=me.peers,
            peer_ports={other.rank: other.port for other in plan.ranks},
            encrypt=me.encrypt,
            buffer_bytes=int(me.buffer_mb * (1 << 20)),
            timeout_s=timeout_s,
            operation_s=max(OPERATION_S, timeout_s),
            join_s=join_s,
            run_id=run_id,
            generation=generation,
            digest=plan.digest(),
            secret=secret,
            endpoint_file=endpoint_file,
            transport="smol" if isinstance(plan, ServePlan) else plan.transport,
            tls=tls,
            after=after,
            entered=entered,
            bind_s=join_s if restarted else bind_s,
            faults=_faults(plan, me),
            sounds=comm.track_network_metrics,
        )


def _faults(plan: Plan | ServePlan, me: RankPlan) -> Faults | None:
    """What a rank breaks on purpose: at steps, which serving does not have."""
    if isinstance(plan, ServePlan) or not plan.run.faults:
        return None
    return Faults(plan.run.faults, me.rank, plan.run.seed)


def read_secret(path: Path, key: str, fix: str) -> bytes:
    """A run's secret from its file. ConfigError, with the key that named the file, if there is none in it."""
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        what = f"the run's secret cannot be read: {error.strerror}"
        raise ConfigError([Problem(str(path), 0, key, what, fix)]) from error
    if not secret:
        raise ConfigError([Problem(str(path), 0, key, "the run's secret is empty", fix)])
    return secret
