"""Each file on two nodes: who sends to whom, and a disk that is lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from smolcluster.runtime.checkpoint.manifest import step_folder
from smolcluster.runtime.checkpoint.replicas import transfers
from smolcluster.runtime.runfolder import RunFolder
from tests.checkpoint.jobs import call, load, train
from tests.checkpoint.runs import loaded, plan
from tests.comm.pool import Pool


def ways(nodes: str, replicas: int) -> list[tuple[int, int]]:
    rank = plan(1, "single").ranks[0]
    ranks = [rank.model_copy(update={"rank": r, "node": name}) for r, name in enumerate(nodes)]
    return [(way.source, way.target) for way in transfers(ranks, replicas)]


def test_a_ring_of_nodes_not_of_ranks() -> None:
    assert ways("abc", 1) == []
    assert ways("abc", 2) == [(0, 1), (1, 2), (2, 0)]
    assert ways("abc", 3) == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    assert ways("aab", 2) == [(0, 2), (1, 2), (2, 0)]
    assert ways("aabb", 2) == [(0, 2), (1, 3), (2, 0), (3, 1)]
    assert ways("aa", 2) == []
    assert ways("ab", 9) == [(0, 1), (1, 0)]


@pytest.mark.parametrize("transport", ["smol", "gloo"])
@pytest.mark.parametrize("lost", [0, 2])
def test_a_lost_disk_is_survived(pool: Pool, data: Path, tmp_path: Path, lost: int, transport: str) -> None:
    made = plan(3, "fsdp", 3, {"replicas": 2, "every_steps": 2}, max_steps=4, eval_steps=100)
    pool.run(3, call, train, (tmp_path, data, made), {}, transport=transport)
    for file in loaded(tmp_path, 4).files:
        assert [place.node for place in file.places] == [f"node{file.rank + 1}", f"node{(file.rank + 1) % 3 + 1}"]
        contents = {
            (step_folder(RunFolder(tmp_path), place.node, 4) / place.name).read_bytes() for place in file.places
        }
        assert len(contents) == 1
    whole = tmp_path.parent / f"{tmp_path.name}-whole"
    shutil.copytree(tmp_path, whole)
    shutil.rmtree(tmp_path / "nodes" / f"node{lost + 1}")
    if lost == 0:
        shutil.rmtree(tmp_path / "checkpoints")
    assert pool.run(3, call, load, (tmp_path, data, made, 4, whole), {}) == [[]] * 3
    assert pool.run(2, call, load, (tmp_path, data, plan(2, "fsdp", 1), 4, whole), {}) == [[]] * 2


def test_without_replicas_a_lost_disk_is_named(pool: Pool, data: Path, tmp_path: Path) -> None:
    made = plan(2, "fsdp", 1, max_steps=2, eval_steps=100)
    pool.run(2, call, train, (tmp_path, data, made), {})
    shutil.rmtree(tmp_path / "nodes" / "node2")
    for outcome in pool.outcomes(2, call, load, (tmp_path, data, made, 2, tmp_path), {}):
        assert outcome.error == "InputError"
        assert "rank 1's file (rank-1.safetensors on node2)" in outcome.value
