"""inference.yml over SSH: two machines behind sshds of their own, the controller as the head's node."""

from __future__ import annotations

import json
import re
import stat

import pytest
from ansible_lab import Cluster, Playing
from ansible_served import PORTS, PROMPT, Tiny, ask
from ansible_sshd import Machines

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_model_over_ssh_is_sent_once_and_answers(
    remote: Cluster, machines: Machines, tiny: Tiny, playing: list[Playing]
) -> None:
    run = remote.begin("inference", f"model={tiny.folder}", override=PORTS)
    playing.append(run)
    run_id = run.until(r"^Run (\S+)$")[1]
    run.until(r"^node1  ready$", timeout=300)
    url = run.until(r"^ +api +(http://\S+)$")[1]
    assert ask(url, PROMPT) == tiny.answer
    stopped = remote.play("stop", f"run_id={run_id}")
    assert stopped.code == 0, stopped.text
    first = run.end(timeout=60)
    assert first.code == 0, "a model that is served ends by being stopped"
    assert "node1  closed: the API was stopped" in first.text
    assert not remote.processes()
    folder = remote.runs / run_id
    told = json.loads((folder / "summary.json").read_text())
    assert (told["status"], told["requests"], told["tokens"], told["world_size"]) == ("stopped", 1, 8, 4)
    for rank, node in enumerate(("node1", "node2", "node3")):
        assert (folder / "nodes" / node / f"rank-{rank}" / "log.txt").is_file()
    for node in ("node2", "node3"):
        there = machines.work(remote.folder, node)
        (model,) = (there / ".data").iterdir()
        assert model.name.startswith("model-")
        for name in ("model.safetensors", "config.json", "tokenizer.json"):
            assert (model / name).read_bytes() == (tiny.folder / name).read_bytes()
        assert stat.S_IMODE((there / run_id / "secret").stat().st_mode) == 0o600

    # The model is there already: the second run ships none. The head may be a machine that is not the controller.
    again = remote.play("inference", f"model={tiny.folder}", "nodes=node2,node3", "detach=true", override=PORTS)
    assert again.code == 0, again.text
    assert "ship : Bring the model that is served" in first.text
    assert "ship : Bring the model that is served" not in again.text
    (url,) = re.findall(r"^ +api +(http://\S+)  \(on node2 itself\)$", again.text, re.MULTILINE)
    assert ask(url, PROMPT) == tiny.answer
    stopped = remote.play("stop", f"run_id={again.run_id}")
    assert stopped.code == 0, stopped.text
    assert not remote.processes()
