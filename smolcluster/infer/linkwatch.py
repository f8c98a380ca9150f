"""The links of a served model's rank, as records: every ten seconds, since what is served has no steps."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from smolcluster.comm.mesh import Mesh
from smolcluster.comm.stats import LinkMeter
from smolcluster.plan.types import NodeConfig, RankPlan, ServePlan
from smolcluster.runtime.metrics import MetricsWriter, last_number
from smolcluster.runtime.runfolder import RunFolder

log = logging.getLogger("smolcluster.infer")
EVERY_S = 10.0


@contextmanager
def links_recorded(
    config: NodeConfig, plan: ServePlan, me: RankPlan, mesh: Mesh, every_s: float = EVERY_S
) -> Iterator[None]:
    """Record them into the rank's metrics.jsonl while inside, where the run tracks its network. Looks are counted on
    from those of the rank's last process.
    """
    if not plan.serve.comm.track_network_metrics:
        yield
        return
    file = RunFolder(Path(config.run_dir)).metrics(me.node, me.rank)
    over = threading.Event()

    def watch() -> None:
        meter = LinkMeter(mesh)
        try:
            look = last_number(file)
            with MetricsWriter(file) as metrics:
                while not over.wait(every_s):
                    look += 1
                    metrics.write_links(look, meter.look(), plan.machine)
        except OSError as error:  # serving goes on without
            log.warning("links are not recorded any more: %s", error)

    watcher = threading.Thread(target=watch, name="smol-links", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
