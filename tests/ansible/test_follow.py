"""The action plugin follow never waits for ever, and what its lines say."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from ansible_lab import ALONE, Cluster, Playing

from smolcluster.observe.progress import Mark, clock, progress_line, slowest, time_left_s
from smolcluster.runtime.metricsfile import StepRecord
from smolcluster.runtime.runfolder import RunFolder, write_atomic

PLAYBOOK = """\
- hosts: node1
  tasks:
    - follow:
        node: node1
        nodes: [node1, node2]
        run_dir: "{run}"
        home: "{home}"
        python: python3
        local: true
        answer_s: 2
        straggle_s: {straggle_s}
        start_failure: "{start_failure}"
      register: outcome
    - copy: {{content: "{{{{ outcome | to_json }}}}", dest: "{folder}/outcome.json", mode: "0644"}}
"""


def follow(local: Cluster, run: Path, straggle_s: float = 60, start_failure: str = "") -> dict[str, object]:
    """Play a playbook that follows node1's part of a run; what the plugin answered."""
    notes = local.folder / "home" / ".follow"
    notes.mkdir(parents=True, exist_ok=True)
    path = local.folder / "follow.yml"
    path.write_text(
        PLAYBOOK.format(
            run=run, home=notes.parent, folder=local.folder, straggle_s=straggle_s, start_failure=start_failure
        )
    )
    played = local.play(str(path), timeout=120)
    assert played.code == 0, played.text
    value: dict[str, object] = json.loads((local.folder / "outcome.json").read_text())
    assert json.loads((notes / "node1").read_text())["state"] == value["state"], "the others are told"
    return value


def test_a_node_that_gives_no_answer_counts_as_lost(local: Cluster) -> None:
    outcome = follow(local, local.runs / "never")
    assert outcome["state"] == "lost"
    assert str(outcome["reason"]).startswith("no answer for ")


def test_a_start_that_failed_is_told_to_the_others_at_once(local: Cluster) -> None:
    outcome = follow(local, local.runs / "never", start_failure="no room on the disk")
    assert (outcome["state"], outcome["reason"], outcome["at_once"]) == ("failed", "no room on the disk", True)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_node_that_goes_on_after_anothers_failure_is_stopped(local: Cluster) -> None:
    begun = local.play("train", "strategy=single", "detach=true", override=ALONE)
    assert begun.code == 0, begun.text
    notes = local.folder / "home" / ".follow"
    notes.mkdir(parents=True)
    failed = {"state": "failed", "reason": "", "at_once": False, "time": time.time()}
    (notes / "node2").write_text(json.dumps(failed))
    outcome = follow(local, local.runs / begun.run_id, straggle_s=1)
    assert (outcome["state"], outcome["reason"]) == ("stopped", "the run has failed on node2")
    assert not local.processes()


SERVED = """\
- hosts: node2
  tasks:
    - follow:
        {{node: node2, nodes: [node1, node2], needs: [node1], run_dir: {home}, home: {home}, python: python3,
          local: true, serves: true, answer_s: 0.5, straggle_s: 1}}
      register: outcome
    - copy: {{content: "{{{{ outcome | to_json }}}}", dest: "{folder}/outcome.json", mode: "0644"}}
"""


def test_a_silent_stage_is_asked_on_while_the_others_serve(local: Cluster, playing: list[Playing]) -> None:
    home = RunFolder(local.folder / "home")
    playbook = local.folder / "follow.yml"
    playbook.write_text(SERVED.format(home=home.path, folder=local.folder))
    write_atomic(home.was_ready, "")
    run = local.begin(str(playbook))
    playing.append(run)
    run.until(r"^node2  no answer, trying again: ")
    threading.Event().wait(2)  # four times what a node that the run needs would be given
    assert run.process.poll() is None
    ended = {"state": "stopped", "reason": "", "at_once": False, "time": 0}
    write_atomic(home.followed("node1"), json.dumps(ended))
    assert run.end(60).code == 0
    assert json.loads((local.folder / "outcome.json").read_text())["state"] == "lost"


@pytest.mark.slow
def test_before_it_was_ready_a_silent_stage_is_lost(local: Cluster) -> None:
    home = RunFolder(local.folder / "home")
    playbook = local.folder / "follow.yml"
    playbook.write_text(SERVED.format(home=home.path, folder=local.folder))
    assert local.play(str(playbook), timeout=60).code == 0
    assert json.loads((local.folder / "outcome.json").read_text())["state"] == "lost"


def record(step: int, **changes: object) -> StepRecord:
    values = {
        "step": step, "time": 0.0, "loss": 2.5, "lr": 0.1, "tokens": 100, "tokens_per_s": 1000.0, "grad_norm": 1.0,
        "step_s": 0.1, "compute_s": 0.1, "comm_s": 0.0, "bytes_out": 0, "bytes_in": 0, "total_steps": 200,
    }  # fmt: skip
    return StepRecord.model_validate({**values, **changes})


def test_a_line_of_progress() -> None:
    line = progress_line("pi5", {0: record(40)}, 65.0, width=5)
    assert line == "pi5    step  40/200  loss 2.5000  1,000 tokens/s  ETA 1:05"
    # A later stage of split layers counts no tokens: rank 0 does.
    line = progress_line("pi5", {1: record(40, tokens=0, tokens_per_s=0.0)}, 65.0, width=5)
    assert line == "pi5    step  40/200  loss 2.5000  ETA 1:05"
    assert "loss 2.5000  val 2.7500  perplexity 15.64  1,000" in progress_line(
        "pi5", {0: record(40, val_loss=2.75)}, None
    )


def test_a_node_of_several_ranks_is_as_far_as_its_slowest_and_as_fast_as_all() -> None:
    records = {0: record(41), 1: record(40)}
    assert slowest(records).step == 40
    assert "2,000 tokens/s" in progress_line("pc", records, None)


@pytest.mark.parametrize(("seconds", "text"), [(None, "-:--"), (0, "0:00"), (65.4, "1:05"), (7389, "2:03:09")])
def test_a_clock(seconds: float | None, text: str) -> None:
    assert clock(seconds) == text


def test_time_left_is_unknown_before_there_is_a_speed() -> None:
    start = Mark(10, 100.0)
    assert time_left_s(start, start, 200) is None
    assert time_left_s(start, Mark(20, 105.0), 200) == pytest.approx(90.0)
