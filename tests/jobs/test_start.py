"""Starting: one run to a node, whoever is quicker; and the ways a start can go wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from smolcluster.errors import ConfigError
from smolcluster.jobs.launch import start_job
from smolcluster.jobs.poll import poll_job
from smolcluster.jobs.registry import Registry
from smolcluster.jobs.stop import stop_job
from smolcluster.jobs.types import JobError, JobRefused

from .conftest import NodeMaker
from .node import FAKE_SUPERVISOR, until


def test_second_run_is_refused_with_both_ways_out(new_node: NodeMaker) -> None:
    first, second = new_node("run"), new_node("run", run_id="run-b")
    first.start()
    with pytest.raises(JobRefused) as caught:
        second.start()
    assert str(caught.value) == (
        f"node1: the run run-a is active in {first.workdir}; nothing was started.\n"
        "    stop it first:   ansible-playbook stop.yml\n"
        "    or take over:    -e replace=true   (python -m smolcluster job start --replace)"
    )
    assert caught.value.exit_code == 2
    assert poll_job(first.run_dir, "node1").job.state == "running"
    assert not second.folder.job_state("node1").exists()
    stop_job(first.run_dir, "node1")
    first.gone()


def test_same_run_twice_is_refused_and_left_alone(new_node: NodeMaker) -> None:
    node = new_node("run")
    pid = node.start().pid
    with pytest.raises(JobRefused):
        node.start()
    job = poll_job(node.run_dir, "node1").job
    assert (job.state, job.pid) == ("running", pid)
    stop_job(node.run_dir, "node1")
    node.gone()


def test_other_node_of_the_same_work_folder_is_free(new_node: NodeMaker) -> None:
    one, two = new_node("run"), new_node("run", node="node2")
    assert (one.start().state, two.start().state) == ("running", "running")
    stop_job(one.run_dir, "node1")
    assert poll_job(two.run_dir, "node2").job.state == "running"
    stop_job(two.run_dir, "node2")
    one.gone(), two.gone()


def test_replace_stops_the_old_run_first(new_node: NodeMaker) -> None:
    first, second = new_node("run"), new_node("run", run_id="run-b")
    first.start()
    first.rank_pids()
    assert second.start(replace=True).state == "running"
    job = poll_job(first.run_dir, "node1").job
    assert (job.state, job.reason) == ("stopped", "replaced by the run run-b")
    stop_job(second.run_dir, "node1")
    first.gone(0.5), second.gone()


def test_replace_ends_a_supervisor_that_does_not_answer(new_node: NodeMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smolcluster.jobs.stop.CONTROL_DEADLINE_S", 0.2)
    monkeypatch.setattr("smolcluster.jobs.stop.STOP_GRACE_S", 0.2)
    first, second = new_node("run"), new_node("run", run_id="run-b")
    pid = first.start().pid
    first.rank_pids()
    os.kill(pid, signal.SIGSTOP)
    assert second.start(replace=True).state == "running"
    first_job = poll_job(first.run_dir, "node1").job
    assert (first_job.state, first_job.reason) == ("stopped", "replaced by the run run-b")
    stop_job(second.run_dir, "node1")
    first.gone(), second.gone()


def test_what_a_dead_run_left_is_no_obstacle(new_node: NodeMaker) -> None:
    first, second = new_node("wedged"), new_node("run", run_id="run-b")
    os.kill(first.start().pid, signal.SIGKILL)
    until(lambda: first.registry.active() is None, "the supervisor is dead")
    assert second.start().state == "running"
    stop_job(second.run_dir, "node1")
    first.gone(), second.gone()


def test_of_many_starters_exactly_one_wins(new_node: NodeMaker) -> None:
    nodes = [new_node("run", run_id=f"run-{number}") for number in range(6)]
    barrier = threading.Barrier(len(nodes))

    def start(index: int) -> str:
        barrier.wait(10)
        try:
            return nodes[index].start().state
        except JobRefused:
            return "refused"

    with ThreadPoolExecutor(len(nodes)) as pool:
        outcomes = list(pool.map(start, range(len(nodes))))
    assert sorted(outcomes) == ["refused"] * 5 + ["running"]
    winner = nodes[outcomes.index("running")]
    stop_job(winner.run_dir, "node1")
    winner.gone()


def test_of_many_processes_claiming_over_a_stale_entry_exactly_one_wins(tmp_path: Path) -> None:
    code = (
        "import sys; from smolcluster.jobs.registry import Registry; from smolcluster.jobs.types import JobRefused\n"
        "from pathlib import Path; sys.stdin.readline()\n"
        "try: Registry(Path(sys.argv[1]), 'node1').claim(sys.argv[2], Path(sys.argv[1], sys.argv[2])); print('won')\n"
        "except JobRefused: print('refused')\n"
        "sys.stdout.flush(); sys.stdin.readline()\n"
    )
    dead = subprocess.run([sys.executable, "-c", code, tmp_path, "old"], input="\n\n", capture_output=True, text=True)
    assert dead.stdout == "won\n", dead.stderr
    assert Registry(tmp_path, "node1").active() is None
    claimers = [
        subprocess.Popen(
            [sys.executable, "-c", code, tmp_path, f"run-{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for claimer in claimers:
        assert claimer.stdin is not None
        claimer.stdin.write("go\n")
        claimer.stdin.flush()
    answers = [claimer.stdout.readline() for claimer in claimers if claimer.stdout is not None]
    for claimer in claimers:
        claimer.communicate("end\n", timeout=10)
    assert sorted(answers) == ["refused\n"] * 3 + ["won\n"]


def test_supervisor_that_cannot_start_is_told_with_its_words(new_node: NodeMaker) -> None:
    node = new_node("run")
    with pytest.raises(JobError) as caught:
        start_job(node.file, supervisor=("-c", "raise SystemExit('no room today')"))
    assert "the supervisor ended before it had started anything" in str(caught.value)
    assert "| no room today" in str(caught.value)
    assert node.registry.active() is None


def test_supervisor_that_never_speaks_is_given_up_and_can_no_longer_start(new_node: NodeMaker) -> None:
    node = new_node("run")
    given_up = node.file.with_name("given-up")
    late = (
        "import sys, threading; from pathlib import Path\n"
        f"for _ in range(2000): Path({str(given_up)!r}).exists() or threading.Event().wait(0.01)\n"
        "from smolcluster.supervisor import main\n"
        f"sys.exit(main(worker=({str(FAKE_SUPERVISOR[0]).replace('supervisor', 'worker')!r},)))"
    )
    with pytest.raises(JobError, match=r"did not start within 0\.3 s"):
        start_job(node.file, supervisor=("-c", late), deadline_s=0.3)
    given_up.touch()
    log = node.folder.supervisor_log("node1")
    until(lambda: "the claim this supervisor was started with is gone" in log.read_text(), "the late one gives up")
    assert not node.folder.job_state("node1").exists()


def test_stop_of_a_start_under_way_takes_its_claim(new_node: NodeMaker) -> None:
    node = new_node("run")
    claim = node.registry.claim(node.run_id, node.run_dir)
    assert stop_job(node.run_dir, "node1").state == "stopped"
    assert node.registry.active() is None
    with pytest.raises(JobError, match="is gone"):
        node.registry.take_over(node.run_dir, claim.nonce)


def test_plan_of_another_run_is_refused_before_anything_starts(new_node: NodeMaker) -> None:
    node = new_node("run")
    plan = node.file.with_name("plan.json")
    plan.write_text(plan.read_text().replace('"cluster": "test"', '"cluster": "tost"'))
    with pytest.raises(ConfigError, match="this is not the plan"):
        node.start()
    assert not (node.workdir / ".active").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1, 2", "not YAML"),
        ("run_id: 1\nschema: 9\n", "schema 9 is not known here"),
        ("run_id: a\n", "Field required"),
    ],
)
def test_bad_node_yaml(new_node: NodeMaker, text: str, words: str) -> None:
    node = new_node("run")
    node.file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        node.start()


def test_missing_node_yaml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        start_job(tmp_path / "node.yaml")


def test_next_run_may_start_as_soon_as_the_last_has_said_that_it_ended(new_node: NodeMaker) -> None:
    for number in range(3):
        node = new_node("done", run_id=f"run-{number}")
        node.start()
        until(lambda: poll_job(node.run_dir, "node1").job.state == "completed", "the job ends")  # noqa: B023


def test_starter_may_die_and_the_run_goes_on(new_node: NodeMaker) -> None:
    node = new_node("run")
    code = (
        "import sys, json; from pathlib import Path; from smolcluster.jobs.launch import start_job\n"
        "print(json.dumps(start_job(Path(sys.argv[1]), supervisor=(sys.argv[2],)).pid), flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, node.file, *FAKE_SUPERVISOR], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as starter:
        assert starter.stdout is not None
        pid = json.loads(starter.stdout.readline())
        starter.kill()
        # The run holds none of its starter's pipes: an SSH session that started it can end.
        assert starter.stdout.read() == b""
    node.remember()
    assert poll_job(node.run_dir, "node1").job.state == "running"
    assert os.getsid(pid) == pid
    stop_job(node.run_dir, "node1")
    node.gone()
