"""Which part a worker takes by its rank's role, and what it says when that ends. The parts are stand-ins."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from smolcluster.errors import ConfigError, PeerLostError, Problem, RunOverError
from smolcluster.plan.types import NodeConfig, RankPlan, ServePlan
from smolcluster.runtime.results import read_result
from smolcluster.runtime.runfolder import RankResult, RunFolder
from smolcluster.worker import StopRequests, run_rank

from .node import make_serve_plan

Part = Callable[[NodeConfig, ServePlan, RankPlan, Callable[[], bool]], None]


class Told:
    """A stop that was asked for, or not."""

    def __init__(self, asked: bool) -> None:
        self.asked = asked

    def __call__(self) -> bool:
        return self.asked

    def wait(self, timeout_s: float) -> bool:
        return self.asked


@pytest.fixture
def take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, RankResult]]:
    """Take a part with a stand-in in its place: the exit code, and what result.json says."""

    def run(rank: int, part: Part, asked: bool = False) -> tuple[int, RankResult]:
        plan = make_serve_plan("node1", ("", "", ""), 3)
        config = NodeConfig(
            run_id="run-a", node="node1", generation=0, run_dir=str(tmp_path), plan_file="", plan_digest="",
            secret_file="", data_dir="", python=sys.executable, ranks=(0, 1, 2),
        )  # fmt: skip

        def other(*_: object) -> None:
            raise AssertionError("the other part")

        for module, function, role in (("infer.rank", "run_stage", "stage"), ("dashboard.served", "run_api", "api")):
            fake = ModuleType(module)
            setattr(fake, function, part if plan.ranks[rank].role == role else other)
            monkeypatch.setitem(sys.modules, f"smolcluster.{module}", fake)
        code = run_rank(config, plan, plan.ranks[rank], Told(asked))
        result = read_result(RunFolder(tmp_path), "node1", rank)
        assert result is not None, "it left none"
        assert (result.rank, result.exit_code) == (rank, code)
        return code, result

    return run


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_the_role_says_which_part(take: Callable[..., tuple[int, RankResult]], rank: int) -> None:
    seen = []
    code, result = take(rank, lambda config, plan, me, stop: seen.append((me.rank, plan.world_size, stop())), True)
    assert seen == [(rank, 3, True)]
    assert (code, result.status, result.reason, result.root_cause) == (130, "stopped", "stopped as asked", False)
    assert (result.finished, result.transport) == (False, "smol")
    assert result.peak_rss_mb > 1


def test_a_part_that_ends_unasked_has_failed(take: Callable[..., tuple[int, RankResult]]) -> None:
    code, result = take(0, lambda *_: None)
    assert (code, result.status, result.root_cause) == (1, "failed", True)
    assert result.reason == "ended although nobody asked"


@pytest.mark.parametrize(
    ("error", "code", "ours", "final", "reason"),
    [
        (ConfigError([Problem("", 0, "api_port", "8080 is taken", "")]), 2, True, True, "api_port: 8080 is taken"),
        (PeerLostError("rank 0 is gone"), 3, False, False, "rank 0 is gone"),
        (RunOverError("rank 0 is over"), 3, False, True, "rank 0 is over"),
        (MemoryError(), 1, True, False, "not enough memory: take precision int8, a shorter ctx_length"),
        (ZeroDivisionError("oh"), 1, True, False, "ZeroDivisionError: oh (a bug of smolcluster"),
        (KeyboardInterrupt(), 130, True, False, "interrupted"),
    ],
)
def test_how_a_part_ended(
    take: Callable[..., tuple[int, RankResult]], error: BaseException, code: int, ours: bool, final: bool, reason: str
) -> None:
    def part(*_: object) -> None:
        raise error

    got, result = take(2, part)
    assert (got, result.final) == (code, final)
    assert result.root_cause == (ours and code != 130)
    assert reason in result.reason


@pytest.mark.parametrize(
    ("error", "status"), [(PeerLostError("the head has ended"), "stopped"), (ZeroDivisionError("oh"), "failed")]
)
def test_who_sees_another_leave_and_is_told_to_stop_then_was_stopped(
    take: Callable[..., tuple[int, RankResult]], error: Exception, status: str
) -> None:
    def part(config: NodeConfig, plan: ServePlan, me: RankPlan, stop: Told) -> None:
        assert not stop()
        stop.asked = True
        raise error

    _, result = take(1, part)  # type: ignore[arg-type]
    assert result.status == status


def test_a_stop_can_be_waited_for() -> None:
    reads, writes = os.pipe()
    stop = StopRequests(reads)
    assert not stop()
    assert not stop.wait(0.01)
    waited: list[bool] = []
    waiter = threading.Thread(target=lambda: waited.append(stop.wait(60)))
    waiter.start()
    os.write(writes, b"st")
    os.write(writes, b"op\n")
    waiter.join(60)
    assert waited == [True]
    assert stop()
    # The pipe stays open: at its end the whole process would leave.


def test_a_result_that_cannot_be_written_is_no_traceback(
    take: Callable[..., tuple[int, RankResult]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, content: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("smolcluster.runtime.results.write_atomic", full)
    with pytest.raises(AssertionError, match="it left none"):
        take(1, lambda *_: None, True)
    [line] = [record.getMessage() for record in caplog.records if record.name == "smolcluster.worker"]
    assert line.startswith("no result.json: ")
    assert os.strerror(errno.ENOSPC) in line
