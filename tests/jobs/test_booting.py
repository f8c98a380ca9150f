"""A supervisor that the system started with the machine: what it waits for, what it tries again, what ends it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from smolcluster.jobs.booting import Stopped, missing, own_addresses, serve_from_boot
from smolcluster.jobs.bootservice import BootService, note_path, write_note
from smolcluster.jobs.identity import ProcessId, identify
from smolcluster.jobs.registry import Active
from smolcluster.jobs.state import read_state, write_state
from smolcluster.jobs.stop import stop_job
from smolcluster.jobs.types import JobRefused
from smolcluster.plan.types import TabletPlan
from smolcluster.runtime.runfolder import JobState, write_atomic
from tests.infer.served_run import plan_of

from .conftest import NodeMaker
from .node import HERE, FakeNode, until


def noted(node: FakeNode, run_id: str = "") -> FakeNode:
    """The node is to serve this run (or another) at boot."""
    write_note(
        BootService(
            run_id=run_id or node.run_id, run_dir=str(node.run_dir), node=node.node, kind="linux",
            name="n", system=False, files={"/nowhere": ""},
        )
    )  # fmt: skip
    return node


def never(seconds: float) -> bool:
    return False


def boot(node: FakeNode, codes: list[int], wait: Callable[[float], bool] = never) -> int:
    return serve_from_boot(node.file, lambda: codes.pop(0), wait, addresses_s=0.0)


def test_it_goes_on_trying_until_it_is_stopped(new_node: NodeMaker) -> None:
    node = noted(new_node("run", "run", serves=True))
    waited: list[float] = []
    codes = [3, 1, 130, 0]
    assert boot(node, codes, lambda seconds: waited.append(seconds) is not None) == 0
    assert (codes, waited) == ([0], [30.0, 30.0])


def test_what_would_be_the_same_again_is_not_tried_again(new_node: NodeMaker) -> None:
    codes = [2, 0]
    assert boot(noted(new_node("run", "run", serves=True)), codes) == 2
    assert codes == [0]


def test_it_ends_when_it_is_asked_to_in_a_pause(new_node: NodeMaker) -> None:
    codes = [3, 0]
    assert boot(noted(new_node("run", "run", serves=True)), codes, lambda seconds: seconds == 30.0) == 0
    assert codes == [0]


def test_a_run_that_is_not_wanted_any_more_is_not_started(new_node: NodeMaker) -> None:
    node = new_node("run", "run", serves=True)
    assert boot(node, [3]) == 0, "there is no note"
    assert boot(noted(node, "another"), [3]) == 0


def test_a_note_that_goes_ends_the_attempts(new_node: NodeMaker) -> None:
    node = noted(new_node("run", "run", serves=True))

    def wait(seconds: float) -> bool:
        note_path(node.workdir, node.node).unlink()
        return False

    codes = [3, 0]
    assert boot(node, codes, wait) == 0
    assert codes == [0]


def test_addresses_are_waited_for(new_node: NodeMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    node = noted(new_node("run", "run", serves=True))
    looks = [("127.0.0.1",), ("127.0.0.1",), ()]
    monkeypatch.setattr("smolcluster.jobs.booting.missing", lambda addresses: looks.pop(0))
    assert serve_from_boot(node.file, lambda: 130, never) == 0
    assert looks == []


def test_the_address_of_a_tablets_page_is_waited_for_too() -> None:
    """It may be of another wire than the links': a Wi-Fi that comes later than the cable."""
    page = TabletPlan(node="ipad", app="browser", host="192.168.1.2", port=8000, precision="fp32")
    app = page.model_copy(update={"app": "native", "host": "192.168.1.30", "precision": "fp16"})
    for tablet, more in ((None, []), (page, ["192.168.1.2"]), (app, [])):
        plan = plan_of(((0, 1), (1, 3), (3, 4)))
        stages = tuple(one.model_copy(update={"tablet": tablet if one.rank == 1 else None}) for one in plan.stages)
        plan = plan.model_copy(update={"stages": stages})
        assert own_addresses(plan, plan.ranks[1:2]) == [*plan.ranks[1].listen, *more]
        assert own_addresses(plan, plan.ranks[:1]) == list(plan.ranks[0].listen)
        assert own_addresses(plan, plan.ranks[-1:]) == [*plan.ranks[-1].listen, *plan.api.listen]


def test_which_addresses_are_here() -> None:
    # The second is for documentation: nobody has it.
    assert missing(["127.0.0.1", "192.0.2.1", "192.0.2.1", "no.such.host.invalid"]) == (
        "192.0.2.1",
        "no.such.host.invalid",
    )


def test_asked_to_stop() -> None:
    stopped = Stopped()
    assert not stopped.wait(0.0)
    stopped.ask()
    assert stopped.wait(60.0)
    assert stopped.wait(60.0)


# As a process, as the system starts it.


def supervisor(node: FakeNode) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(HERE / "fake_supervisor.py"), str(node.file), "--boot"]
    node.folder.node(node.node).mkdir(parents=True, exist_ok=True)
    log = node.folder.supervisor_log(node.node)
    with log.open("ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, cwd=node.workdir, start_new_session=True)


def test_after_a_power_cut_what_was_left_does_not_stand_in_its_way(new_node: NodeMaker) -> None:
    node = noted(new_node("run", "run", serves=True))
    # A pid that is somebody else's now, a birth of an earlier boot, a job that says it runs, half-written files.
    gone = ProcessId(pid=os.getpid(), birth="another-boot:1")
    entry = Active(run_id="run-a", run_dir=str(node.run_dir), nonce="n", owner=gone, supervised=True, ranks={0: gone})
    write_atomic(node.registry.path, entry.model_dump_json())
    state = JobState(
        run_id="run-a", node="node1", state="running", pid=gone.pid, generation=0, ranks={0: "running", 1: "running"}
    )
    write_state(node.folder, state)
    write_atomic(node.folder.control("node1"), '{"port": 1, "token": "of before"}')
    write_atomic(node.folder.endpoint("node1"), "{half")
    process = supervisor(node)
    try:
        until(lambda: len(node.rank_pids(1)) > 0, "both ranks run")
        until(lambda: read_state(node.folder, "node1").pid == process.pid, "job.json is the new one's")
        until(lambda: read_state(node.folder, "node1").state == "running", "it runs")
        node.remember()
        # A second one finds it served, and anybody else finds it busy.
        assert supervisor(node).wait(30) == 0
        with pytest.raises(JobRefused, match="run-a is active"):
            new_node("run", run_id="run-b").start()
        assert stop_job(node.run_dir, "node1").state == "stopped"
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    node.gone()


def test_it_is_tried_again_after_its_ranks_have_failed_and_ends_in_the_pause_when_told(new_node: NodeMaker) -> None:
    node = noted(new_node("code:1", "run", serves=True))
    process = supervisor(node)
    log = node.folder.supervisor_log("node1")
    try:
        until(lambda: "it is tried again in 30 s" in log.read_text(), "the first attempt has failed")
        assert node.registry.active() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def test_without_its_run_folder_it_says_so(new_node: NodeMaker) -> None:
    node = noted(new_node("run", "run", serves=True))
    shutil.rmtree(node.file.parent)
    process = supervisor(node)
    assert process.wait(30) == 2
    assert "cannot be read" in node.folder.supervisor_log("node1").read_text()
    assert identify(process.pid) is None
