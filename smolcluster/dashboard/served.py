"""The API's rank of a served model with the dashboard of its own run: what lies on its machine, and what the head says.

Of the other machines it knows what the head does; their logs are theirs. The controller's dashboard has all of them.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter

from smolcluster.chat.backend import rank
from smolcluster.chat.backend.service import Service
from smolcluster.dashboard.reading import Reading
from smolcluster.dashboard.routes import dashboard_routes
from smolcluster.dashboard.stopping import Others
from smolcluster.plan.types import NodeConfig, RankPlan, ServePlan
from smolcluster.runtime.process import Stop
from smolcluster.runtime.runfolder import RunFolder


def run_api(config: NodeConfig, plan: ServePlan, me: RankPlan, stop: Stop) -> None:
    """Serve until `stop`. Errors as of the API's rank."""
    # Whoever renews a lease ends the other machines' parts when this one's ends; a detached run has nobody.
    others: Others = "nobody" if config.lease_s is None else "follow"
    reading = Reading(RunFolder(Path(config.run_dir)), others)

    def routes(service: Service) -> APIRouter:
        return dashboard_routes(reading, service.settings, lambda: service.leaving)

    rank.run_api(config, plan, me, stop, routes)
