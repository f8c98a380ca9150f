"""The synchronous parameter server.

rounds.py    which gradients make up a step
server.py    one update on their mean
worker.py    gradients, and weights as an average of what was seen
"""

from __future__ import annotations

from smolcluster.strategies.syncps.server import Server
from smolcluster.strategies.syncps.worker import Worker

__all__ = ["Server", "Worker"]
