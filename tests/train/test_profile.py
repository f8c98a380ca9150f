"""`python -m smolcluster profile` as a person types it: what it measures, what it leaves, how it ends otherwise."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from smolcluster.plan.profile import Profile
from smolcluster.plan.wires import INT8_PAYS_MBPS
from tests.jobs.node import until

# Three machines that are this one, on a wire that is not its loopback as far as the inventory knows.
LAN = """\
schema: 1
name: lan
machines:
  node1: {connection: local, threads: 1}
  node2: {connection: local, threads: 1}
  node3: {connection: local, threads: 1}
networks:
  lan: {medium: ethernet, speed_mbps: 10000, private: true,
        members: {node1: 127.0.0.2, node2: 127.0.0.3, node3: 127.0.0.4}}
defaults:
  port: 0
  model: {model_dim: 32, num_layers: 1, num_heads: 2, ff_dim: 64, max_seq_len: 32}
  training: {batch_size: 4}
  data: {dataset: book.txt, tokenizer: "bpe:300"}
"""
NODES = ("node1", "node2", "node3")
# node2 takes forty times as long, and node3's wires carry 20 Mbit/s.
UNEQUAL = "faults=[{kind: slow, rank: 1, step: 1, factor: 40}, {kind: throttle, rank: 2, step: 1, mbps: 20}]"
LASTING = "faults=[{kind: slow, rank: 1, step: 1, factor: 100000}]"
DEADLINE_S = 200.0


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """A project of a person's own; none of its processes is left behind."""
    (tmp_path / "inventory").mkdir()
    (tmp_path / "inventory" / "lan.smol.yml").write_text(LAN)
    (tmp_path / "book.txt").write_text(
        "".join(f"In chapter {n} the ranks agree on the sum of {n} and {n * n}.\n" for n in range(1500))
    )
    yield tmp_path
    left = [process for process in psutil.process_iter(["cmdline"]) if _is_of(process, tmp_path)]
    for process in left:
        process.kill()
    assert not left, f"left running: {left}"


def _is_of(process: psutil.Process, project: Path) -> bool:
    return any(str(project) in word for word in process.info["cmdline"] or ())


def command(name: str, *flags: str) -> list[str]:
    inventory = [] if name == "report" else ["-i", "inventory/lan.smol.yml"]
    return [sys.executable, "-m", "smolcluster", name, *inventory, *flags]


def surroundings(project: Path) -> dict[str, object]:
    return {"cwd": project, "env": {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "110"}, "text": True}


def call(project: Path, name: str, *flags: str) -> subprocess.CompletedProcess[str]:
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command(name, *flags), **surroundings(project), capture_output=True, timeout=DEADLINE_S, check=False
    )  # type: ignore[call-overload]
    return done


def run_of(project: Path) -> Path:
    [run] = (project / "runs").glob("*-profile-*")
    return run


@pytest.mark.slow
def test_unequal_machines_are_measured_and_planned_by(project: Path) -> None:
    outcome = call(project, "profile", "--override", UNEQUAL)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    file = project / "inventory" / "profile.json"
    profile = Profile.model_validate_json(file.read_bytes())
    assert "inventory/profile.json; plans of this inventory go by it" in outcome.stdout
    assert file.read_bytes() == (run_of(project) / "profile.json").read_bytes()
    assert tuple(profile.speeds) == NODES
    assert profile.speeds["node2"] < min(profile.speeds["node1"], profile.speeds["node3"]) / 2
    assert {(link.src, link.dst) for link in profile.links} == {(a, b) for a in NODES for b in NODES if a != b}
    assert all((link.mbps < 40) == ("node3" in (link.src, link.dst)) for link in profile.links), profile.links
    measured = profile.measured
    assert measured is not None
    assert (measured.cluster, measured.batch_size, measured.model.type) == ("lan", 4, "gpt")
    assert measured.nodes["node1"].device == "cpu"
    for node in measured.nodes.values():
        decode = node.decode
        assert decode is not None
        assert len(decode.rows) == len(decode.layer_s) == len(decode.rested)
        assert min(decode.rested) > 0
    assert measured.nodes["node1"].versions.keys() == {"smolcluster", "torch", "python", "system"}

    summary = json.loads((run_of(project) / "summary.json").read_text())
    assert (summary["kind"], summary["status"], summary["world_size"]) == ("profile", "completed", 3)
    assert not (project / "runs" / "latest").exists(), "there is no model in it"
    again = call(project, "report", str(run_of(project)))
    assert again.returncode == 0, again.stderr
    assert "links, while all computed and sent" in again.stdout

    planned = call(project, "plan", "--strategy", "classicdp", "--override", "balance=auto,wire=auto")
    assert planned.returncode == 0, planned.stderr
    plan = json.loads(planned.stdout)
    shares = [rank["samples"] for rank in plan["ranks"]]
    assert sum(shares) == plan["global_batch"] == 12
    assert shares[1] < min(shares[0], shares[2])
    assert plan["wire"] == "int8"
    assert f"as measured, below the {INT8_PAYS_MBPS:g}" in planned.stderr
    assert "note: predicted: " in planned.stderr
    assert "note: faults" not in planned.stderr, "what was broken to be measured is not planned"


@pytest.mark.slow
def test_a_measurement_that_fails_leaves_no_profile(project: Path) -> None:
    outcome = call(project, "profile", "--override", "faults=[{kind: crash, rank: 2, step: 1}]")
    assert outcome.returncode == 3, outcome.stdout
    assert "rank 2 on node3" in outcome.stdout
    assert "Traceback" not in outcome.stdout + outcome.stderr
    assert not (project / "inventory" / "profile.json").exists()
    assert not (run_of(project) / "profile.json").exists()
    assert json.loads((run_of(project) / "summary.json").read_text())["status"] == "failed"


def test_ctrl_c_ends_a_measurement(project: Path) -> None:
    # A test run in the background ignores Ctrl-C, and so would its children.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            command("profile", "--override", LASTING), **surroundings(project), start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # type: ignore[call-overload]  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        logs = [f"nodes/{node}/rank-{rank}/log.txt" for rank, node in enumerate(NODES)]
        runs = project / "runs"
        until(
            lambda: all(
                any("measuring gpt" in f.read_text() for f in runs.glob(f"*/{log}")) for log in (logs[0], logs[2])
            ),
            "the machines are measured",
            DEADLINE_S,
        )
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, out
    assert "Traceback" not in out
    assert not (project / "inventory" / "profile.json").exists()


@pytest.mark.slow
def test_one_machine_is_measured_without_links(project: Path) -> None:
    outcome = call(project, "profile", "--nodes", "node2", "--strategy", "single")
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    profile = Profile.model_validate_json((project / "inventory" / "profile.json").read_bytes())
    assert tuple(profile.speeds) == ("node2",)
    assert profile.links == ()
    assert "to Mbit/s" not in outcome.stdout
