"""inference.yml with a tablet that has a stage: it is waited for, serves, is seen and left alone."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from ansible_lab import Cluster, Playing, gone_within
from ansible_served import PORTS, PROMPT, Tiny, ask

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
STAGES = '[{host: node1, layers: "0:1"}, {host: ipad, layers: "1:3"}, {host: node2, layers: "3:4"}]'


@pytest.fixture
def hybrid(local: Cluster) -> Cluster:
    """Three nodes of this machine, and a tablet whose browser is on it too."""
    text = local.inventory.read_text(encoding="utf-8")
    text = text.replace("machines:\n", "machines:\n  ipad: {app: browser}\n", 1)
    text = text.replace("members: {", "members: {ipad: 127.0.0.1, ", 1)
    local.inventory.write_text(f"{text}  stages: {STAGES}\n", encoding="utf-8")
    return local


def test_a_tablet_has_a_stage(hybrid: Cluster, tiny: Tiny, playing: list[Playing]) -> None:
    exports = f"ship_tablet_dir={hybrid.folder / 'tablet'}"
    run = hybrid.begin("inference", f"model={tiny.folder}", exports, override=PORTS)
    playing.append(run)
    run_id = run.until(r"^Run (\S+)$")[1]
    run.until(r"^ +rank 1 +ipad .* its browser, by a page on 127.0.0.1, any port; by a process on node1$")
    run.until(
        r"^node1  ipad: waiting for its browser, \d+ s left: open http://\S+ there, by the link with the key$", 300
    )
    link = run.until(r"^ +ipad  (http://127\.0\.0\.1:\d+/tablet#run=\S+&key=[0-9a-f]{64})$")[1]
    player = subprocess.Popen(
        [sys.executable, "-m", "smolcluster.tablet.play", "--cache", str(hybrid.folder / "played")],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=hybrid.folder,
    )  # fmt: skip
    try:
        assert player.stdin is not None
        player.stdin.write(link + "\n")
        player.stdin.close()
        run.until(r"^node1  ipad: connected, layers 1:3 \(Python, onnxruntime, onnx\)$", timeout=300)
        run.until(r"^node1  ready$", timeout=300)
        url = run.until(r"^ +api +(http://\S+)$")[1]
        assert ask(url, PROMPT) == tiny.answer

        status = hybrid.play("status")
        assert status.code == 0, status.text
        assert "ipad connected, layers 1:3 (Python, onnxruntime, onnx)" in status.text
        checked = hybrid.play("check")
        assert checked.code == 0, checked.text
        stopped = hybrid.play("stop")
        assert stopped.code == 0, stopped.text
        outcome = run.end(timeout=60)
    finally:
        player.kill()
        player.wait(30)
    gone_within(hybrid, 15)
    secret = link.rpartition("=")[2]
    folder = hybrid.runs / run_id
    assert json.loads((folder / "summary.json").read_text())["requests"] == 1, outcome.text
    kept = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in kept if secret in path.read_text(errors="replace")], "the key is on a screen alone"
    made = [path.name for path in (hybrid.folder / "tablet").iterdir()]
    assert len(made) == 1


@pytest.mark.soak
def test_without_a_tablet_that_does_not_come_nothing_is_served(hybrid: Cluster, tiny: Tiny) -> None:
    exports = f"ship_tablet_dir={hybrid.folder / 'tablet'}"
    done = hybrid.play("inference", f"model={tiny.folder}", exports, "tablet_wait_s=2", override=PORTS)
    assert done.code != 0
    assert "ipad did not come within 2 s" in done.text
    assert "or serve without it: -e optional=ipad" in done.text
    assert json.loads((hybrid.runs / done.run_id / "summary.json").read_text())["exit_code"] == 3
    gone_within(hybrid, 15)
    again = hybrid.play("inference", f"model={tiny.folder}", exports, "tablet_wait_s=2", "optional=ipad", "detach=true",
                        override=PORTS)  # fmt: skip
    assert again.code == 0, again.text
    assert hybrid.play("stop").code == 0
    gone_within(hybrid, 15)
