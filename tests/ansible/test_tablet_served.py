"""inference.yml with a tablet that has a stage: it is waited for, serves, is seen and left alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_lab import Cluster, Playing, gone_within
from ansible_served import PORTS, PROMPT, Tiny, ask, booted, ready
from ansible_sshd import Machines, free_port

from smolcluster.runtime.runfolder import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
STAGES = '[{{host: {head}, layers: "0:1"}}, {{host: ipad, layers: "1:3"}}, {{host: {last}, layers: "3:4"}}]'
LINK = r"^ +ipad  (http://127\.0\.0\.\d:\d+/tablet#run=\S+&key=[0-9a-f]{64})$"


def with_tablet(cluster: Cluster, head: str, last: str, address: str, port: int) -> Cluster:
    """The same machines, and a tablet between two of them whose browser finds its page on the first one's."""
    text = cluster.inventory.read_text(encoding="utf-8")
    text = text.replace("machines:\n", "machines:\n  ipad: {app: browser}\n", 1)
    text = text.replace("members: {", f"members: {{ipad: {address}, ", 1)
    text = re.sub(r"^  port: (\d+)$", rf"  port: {{default: \1, ipad: {port}}}", text, flags=re.MULTILINE)
    cluster.inventory.write_text(f"{text}  stages: {STAGES.format(head=head, last=last)}\n", encoding="utf-8")
    return cluster


@pytest.fixture
def hybrid(local: Cluster) -> Cluster:
    """Three nodes of this machine, and a tablet whose browser is on it too."""
    return with_tablet(local, "node1", "node2", "127.0.0.1", 0)


@pytest.fixture
def player(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """player(link): a tablet in a process of its own, let in by its link, until the test ends."""
    made: list[subprocess.Popen[str]] = []

    def start(link: str) -> None:
        command = [sys.executable, "-m", "smolcluster.tablet.play", "--cache", str(tmp_path / "played")]
        player = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=tmp_path)
        made.append(player)
        assert player.stdin is not None
        player.stdin.write(link + "\n")
        player.stdin.close()

    yield start
    for player in made:
        player.kill()
        player.wait(30)


def secrets_kept(folder: Path, link: str) -> list[Path]:
    """The files of a run in which its tablet's key is: it is on a screen alone."""
    secret = link.rpartition("=")[2]
    kept = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in kept if secret in path.read_text(errors="replace")]


def test_a_tablet_has_a_stage(
    hybrid: Cluster, tiny: Tiny, playing: list[Playing], player: Callable[[str], None]
) -> None:
    exports = f"ship_tablet_dir={hybrid.folder / 'tablet'}"
    run = hybrid.begin("inference", f"model={tiny.folder}", exports, override=PORTS)
    playing.append(run)
    run_id = run.until(r"^Run (\S+)$")[1]
    run.until(r"^ +rank 1 +ipad .* its browser, by a page on 127.0.0.1, any port; by a process on node1$")
    run.until(
        r"^node1  ipad: waiting for its browser, \d+ s left: open http://\S+ there, by the link with the key$", 300
    )
    link = run.until(LINK)[1]
    player(link)
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
    gone_within(hybrid, 15)
    folder = hybrid.runs / run_id
    assert json.loads((folder / "summary.json").read_text())["requests"] == 1, outcome.text
    assert not secrets_kept(folder, link)
    made = [path.name for path in (hybrid.folder / "tablet").iterdir()]
    assert len(made) == 1


@pytest.mark.soak
def test_rank_0_and_the_tablets_page_may_be_on_another_machine_than_the_controller(
    remote: Cluster, machines: Machines, tiny: Tiny, playing: list[Playing], player: Callable[[str], None]
) -> None:
    cluster = with_tablet(remote, "node2", "node3", "127.0.0.5", 0)
    run = cluster.begin("inference", f"model={tiny.folder}", override=PORTS)
    playing.append(run)
    run_id = run.until(r"^Run (\S+)$")[1]
    run.until(r"^ +rank 1 +ipad .* its browser, by a page on 127.0.0.2, any port; by a process on node2$")
    run.until(r"^node2  ipad: waiting for its browser, ", 300)
    link = run.until(LINK)[1]
    assert link.startswith("http://127.0.0.2:"), "the page is on rank 0's machine"
    player(link)
    run.until(r"^node2  ipad: connected, layers 1:3 ", timeout=300)
    run.until(r"^node1  ready$", timeout=300)
    url = run.until(r"^ +api +(http://\S+)$")[1]
    assert ask(url, PROMPT) == tiny.answer
    stopped = cluster.play("stop", f"run_id={run_id}")
    assert stopped.code == 0, stopped.text
    outcome = run.end(timeout=60)
    assert outcome.code == 0, outcome.text
    assert not cluster.processes()
    folder = cluster.runs / run_id
    told = json.loads((folder / "summary.json").read_text())
    assert (told["status"], told["requests"], told["world_size"]) == ("stopped", 1, 4)
    # The tablet's rank is a process on node2, and what it loads was exported there, where the weights are.
    assert (folder / "nodes" / "node2" / "rank-1" / "log.txt").is_file()
    [exported] = (machines.work(cluster.folder, "node2") / ".data" / "tablet").iterdir()
    assert (exported / "stage.onnx").is_file()
    assert not secrets_kept(folder, link)
    assert not secrets_kept(machines.work(cluster.folder, "node2"), link)


@pytest.mark.soak
def test_after_a_power_cut_the_tablet_comes_back_by_the_link_it_has(
    local: Cluster, tiny: Tiny, playing: list[Playing], player: Callable[[str], None], tmp_path: Path
) -> None:
    """What `-e on_boot=true` leaves, without a service manager: every node's supervisor, started with the machine."""
    hybrid = with_tablet(local, "node1", "node2", "127.0.0.1", free_port("127.0.0.1"))
    exports = f"ship_tablet_dir={hybrid.folder / 'tablet'}"
    run = hybrid.begin("inference", f"model={tiny.folder}", exports, "detach=true", override=PORTS)
    playing.append(run)
    player(run.until(LINK, 300)[1])
    served = run.end()
    assert served.code == 0, served.text
    folder = RunFolder(hybrid.runs / served.run_id)
    nodes = sorted(path.name for path in (folder.path / "nodes").iterdir())
    for process in hybrid.processes():
        process.kill()
    gone_within(hybrid, 60)
    began = time.time()
    with booted(folder, nodes, tmp_path) as started:
        assert ask(ready(folder, since=began), PROMPT) == tiny.answer
        status = hybrid.play("status")
        assert "ipad connected, layers 1:3 (Python, onnxruntime, onnx)" in status.text
        stopped = hybrid.play("stop")
        assert stopped.code == 0, stopped.text
        assert [process.wait(60) for process in started] == [0] * len(nodes)
    assert not hybrid.processes()


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
