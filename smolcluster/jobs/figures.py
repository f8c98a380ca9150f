"""A node's figures while its job runs: the machine's are recorded, and with `metrics_port` Prometheus is told all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from smolcluster.jobs.hardware import HardwareWatch, Machine
from smolcluster.plan.exporters import exporters_of
from smolcluster.plan.types import NodeConfig, Plan, ServePlan
from smolcluster.runtime.runfolder import JobState, RunFolder
from smolcluster.runtime.scraping import metrics_key

_log = logging.getLogger("smolcluster.supervisor")


@contextmanager
def figures_of(
    config: NodeConfig, plan: Plan | ServePlan, pids: Callable[[], Mapping[int, int]], job: Callable[[], JobState]
) -> Iterator[None]:
    """Record and tell while inside. `pids`: the ranks' processes now, by rank; `job`: the job now."""
    folder = RunFolder(Path(config.run_dir))
    told = []
    with ExitStack() as stack:
        mine = next((each for each in exporters_of(plan) if each.node == config.node), None)
        if mine is not None:
            # A web server and Prometheus's client: a supervisor that has nobody to tell starts without them.
            from smolcluster.jobs.exporter import MetricsServer, RankFigures
            from smolcluster.observe.exposition import NodeFigures

            figures = NodeFigures(config.run_id, config.node, job)
            ranks = RankFigures(figures, {rank: folder.metrics(config.node, rank) for rank in config.ranks})
            key = _key_of(config)
            if key:
                server = MetricsServer(mine, key, ranks, figures.text)
                stack.callback(server.close)
                told = [figures.take_hardware, server.read]
        watch = HardwareWatch(Machine(pids), folder.hardware(config.node), told)
        stack.callback(watch.close)
        yield


def _key_of(config: NodeConfig) -> str:
    """The run's metrics key; "" where the secret cannot be read, which the ranks say better than the log here."""
    try:
        return metrics_key(Path(config.secret_file).read_bytes())
    except OSError as error:
        _log.warning("no metrics: %s cannot be read: %s", config.secret_file, error.strerror or error)
        return ""
