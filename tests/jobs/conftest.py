from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from smolcluster.jobs.identity import end

from .node import FakeNode, make_node

NodeMaker = Callable[..., FakeNode]


@pytest.fixture
def new_node(tmp_path: Path) -> Iterator[NodeMaker]:
    """Makes nodes in one work folder, and ends whatever a failed test left of them."""
    made: list[FakeNode] = []

    def make(*behaviours: str, **options: object) -> FakeNode:
        made.append(make_node(tmp_path / "runs", behaviours, **options))
        return made[-1]

    yield make
    for node in made:
        node.remember()
        for who in node.seen:
            end(who, grace_s=0)
