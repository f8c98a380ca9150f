"""The two classes of a star's strategy, found by its name: Server and Worker of smolcluster/strategies/<name>.py."""

from __future__ import annotations

import importlib
from typing import cast

from smolcluster.strategies.star.server import StarServer
from smolcluster.strategies.star.worker import StarWorker


def server_class(strategy: str) -> type[StarServer]:
    """What rank 0 runs."""
    return cast(type[StarServer], importlib.import_module(f"smolcluster.strategies.{strategy}").Server)


def worker_class(strategy: str) -> type[StarWorker]:
    """What all others run."""
    return cast(type[StarWorker], importlib.import_module(f"smolcluster.strategies.{strategy}").Worker)
