"""A served run's rank from its plan: the group it joins, found through the run's folder."""

from __future__ import annotations

from pathlib import Path

from smolcluster.comm.config import GroupConfig, read_secret
from smolcluster.comm.tls import TlsContexts
from smolcluster.plan.types import NodeConfig, RankPlan, ServePlan
from smolcluster.runtime.runfolder import RunFolder


def group_of(config: NodeConfig, plan: ServePlan, me: RankPlan) -> GroupConfig:
    """The view of rank `me`. ConfigError where the run's secret or the node's certificate cannot be used."""
    return GroupConfig.from_plan(
        plan,
        me,
        run_id=config.run_id,
        generation=config.generation,
        secret=secret_of(config),
        endpoint_file=RunFolder(Path(config.run_dir)).endpoint(plan.ranks[0].node),
        tls=TlsContexts.of_node(config.certificates, me, plan.ca),
    )


def secret_of(config: NodeConfig) -> bytes:
    """The run's. ConfigError where it cannot be read."""
    return read_secret(Path(config.secret_file), "secret_file", "run the playbook again")
