"""Debian's own Prometheus looks at a run of three nodes, and at a served model, as the files in their folders say."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from smolcluster.chat.backend.accounts import Accounts
from smolcluster.infer.head import Health, StageNow
from smolcluster.observe.exposition import NodeFigures
from smolcluster.runtime.runfolder import RunFolder
from smolcluster.runtime.scraping import metrics_key, write_scraping, write_scraping_of
from smolcluster.spec.run import CommSpec
from tests.infer.served_run import plan_of as serve_plan_of
from tests.infer.test_serve_command import Served, post
from tests.jobs.test_exporter import job, link, machine, step
from tests.train.test_command import SMALL, text_of
from tests.train.train_folders import plan_of, run_spec

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "templates" / "grafana" / "smolcluster.json"
UNPACKED = ROOT / ".cache" / "prometheus" / "usr" / "bin"
PROMETHEUS = shutil.which("prometheus") or shutil.which("prometheus", path=str(UNPACKED))
PROMTOOL = shutil.which("promtool") or shutil.which("promtool", path=str(UNPACKED))
WAIT_S = 150.0

real = pytest.mark.skipif(
    (PROMETHEUS is None or PROMTOOL is None) and "CI" not in os.environ,
    reason="no prometheus here: sudo tests/lab/packages.sh unpacks Debian's",
)


def tool(*arguments: str, said: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    assert PROMTOOL is not None, "tests/lab/packages.sh unpacks it"
    return subprocess.run([PROMTOOL, *arguments], input=said, capture_output=True, timeout=60, check=False)


def free_ports(count: int) -> int:
    """The first of so many free ports in a row."""
    for _ in range(50):
        with ExitStack() as stack:
            first = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            try:
                for port in range(first + 1, first + count):
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
            except (OSError, OverflowError):
                continue
            return int(first)
    raise AssertionError("no free ports in a row")


class Prometheus:
    """Debian's, with a run's configuration, on a port that it chose."""

    def __init__(self, folder: Path, data: Path) -> None:
        assert PROMETHEUS is not None, "tests/lab/packages.sh unpacks it"
        self.port = free_ports(1)
        config = folder / "prometheus" / "prometheus.yml"
        with (data.parent / "prometheus.txt").open("wb") as said:
            self.process = subprocess.Popen(
                [PROMETHEUS, f"--config.file={config}", f"--storage.tsdb.path={data}",
                 f"--web.listen-address=127.0.0.1:{self.port}"],
                stdout=subprocess.DEVNULL, stderr=said,
            )  # fmt: skip

    def get(self, path: str, **query: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.loads(answer.read())["data"]
        except (OSError, ValueError):  # it is starting
            assert self.process.poll() is None, "Prometheus has ended"
            return {}

    def values(self, expression: str) -> dict[tuple[str, ...], float]:
        """By node and rank, as far as it has them."""
        found = self.get("query", query=expression).get("result", [])
        labels = ("node", "rank")
        return {tuple(each["metric"].get(n, "") for n in labels): float(each["value"][1]) for each in found}

    def until(self, expression: str, count: int) -> dict[tuple[str, ...], float]:
        """The values, once there are so many."""
        stop, pause = time.monotonic() + WAIT_S, threading.Event()
        while len(found := self.values(expression)) < count:
            assert time.monotonic() < stop, f"{expression}: {found}; targets: {self.get('targets')}"
            pause.wait(0.5)
        return found

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        finally:
            self.process.kill()
            self.process.wait(30)


@contextmanager
def watching(folder: Path, tmp_path: Path) -> Iterator[Prometheus]:
    """Often: its usual ten seconds are long for a test."""
    config = folder / "prometheus" / "prometheus.yml"
    text = config.read_text().replace("10s", "1s").replace("5s", "1s")
    config.write_text(text)
    prometheus = Prometheus(folder.resolve(), tmp_path / "tsdb")
    try:
        yield prometheus
    finally:
        prometheus.close()


@contextmanager
def training(project: Path, *settings: str) -> Iterator[Path]:
    """Three nodes on this machine, until the body is done; the folder of the run. Ended as by Ctrl-C."""
    (project / "inventory").mkdir()
    shutil.copy(ROOT / "inventory" / "local.smol.yml", project / "inventory")
    command = [sys.executable, "-m", "smolcluster.train", "--strategy", "fsdp", "--dataset", str(text_of(project))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (project / "output.txt").open("wb") as output:
        process = subprocess.Popen(
            [*command, "--override", ",".join((*SMALL, *settings))],
            cwd=project, stdout=output, stderr=subprocess.STDOUT, env=environment,
        )  # fmt: skip
        try:
            latest, pause, stop = project / "runs" / "latest", threading.Event(), time.monotonic() + WAIT_S
            while not (latest / "prometheus" / "prometheus.yml").exists():
                assert process.poll() is None, (project / "output.txt").read_text()
                assert time.monotonic() < stop
                pause.wait(0.1)
            yield latest.resolve()
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(90)
            finally:
                process.kill()
                process.wait(30)


def test_what_prometheus_is_given_of_a_training(tmp_path: Path) -> None:
    run = run_spec("fsdp", (2, 2, 2))
    folder = RunFolder(tmp_path / "the-run")
    folder.path.mkdir()
    (folder.path / "secret").write_text("s3cret")
    assert not write_scraping(folder, plan_of(run, (2, 2, 2)))
    assert not write_scraping_of(folder, plan_of(run, (2, 2, 2)).to_json())
    assert not folder.prometheus.exists()
    run = run.model_copy(update={"comm": CommSpec(metrics_port=65500)})
    assert write_scraping(folder, plan_of(run, (2, 2, 2)))
    assert json.loads((folder.prometheus / "targets.json").read_text()) == [
        {"targets": [f"127.0.0.1:{65500 + n}"], "labels": {"run": "the-run", "node": f"node{n + 1}"}} for n in range(3)
    ]
    key = folder.prometheus / "key"
    assert key.read_text() == metrics_key(b"s3cret\n")
    assert "s3cret" not in key.read_text()
    assert key.stat().st_mode & 0o777 == 0o600 or os.name == "nt"
    config = yaml.safe_load((folder.prometheus / "prometheus.yml").read_text())
    assert [each["job_name"] for each in config["scrape_configs"]] == ["smolcluster"]


def served_folder(path: Path, **api: Any) -> RunFolder:
    plan = serve_plan_of(((0, 2), (2, 4)))
    serve = plan.serve.model_copy(update={"comm": CommSpec(metrics_port=65500)})
    plan = plan.model_copy(update={"serve": serve, "api": plan.api.model_copy(update={"api_port": 8080, **api})})
    folder = RunFolder(path)
    folder.path.mkdir()
    (folder.path / "secret").write_text("s3cret")
    (folder.path / "api_key").write_text("k3y")
    assert write_scraping(folder, plan)
    return folder


@real
def test_promtool_takes_the_configuration(tmp_path: Path) -> None:
    for name, api in (("plain", {}), ("open", {"listen": ("10.0.0.7",)})):
        folder = served_folder(tmp_path / name, **api)
        said = tool("check", "config", str(folder.prometheus / "prometheus.yml"))
        assert said.returncode == 0, said.stderr.decode() + said.stdout.decode()
        config = yaml.safe_load((folder.prometheus / "prometheus.yml").read_text())
        asked = config["scrape_configs"][1].get("authorization")
        assert asked == (None if name == "plain" else {"credentials_file": "../api_key"})
        (target,) = json.loads((folder.prometheus / "api.json").read_text())
        assert target["targets"] == ["127.0.0.1:8080" if name == "plain" else "10.0.0.7:8080"]


def exposed() -> tuple[bytes, bytes]:
    """The figures of a node and of an API that have all there is."""
    figures = NodeFigures("r1", "mini1", job)
    figures.take(0, step(1, val_loss=2.0))
    figures.take(0, link(1))
    figures.take_hardware(machine())
    accounts = Accounts()
    accounts.answered("/chat", 200)
    own = StageNow(rank=0, node="mini1", start=0, stop=2, alive=True, steps=3, busy_s=1.0)
    far = own.model_copy(update={"rank": 1, "node": "pi5", "bytes_out": 500, "bytes_in": 400, "rtt_ms": 2.0})
    return figures.text(), accounts.metrics(Health(state="ready", stages=(own, far)))


def test_an_api_tells_how_its_head_reaches_the_stages() -> None:
    text = exposed()[1].decode()
    assert 'smolcluster_stage_sent_bytes_total{node="pi5",rank="1"} 500.0' in text
    assert 'smolcluster_stage_received_bytes_total{node="pi5",rank="1"} 400.0' in text
    assert 'smolcluster_stage_round_trip_seconds{node="pi5",rank="1"} 0.002' in text
    assert 'stage_sent_bytes_total{node="mini1"' not in text  # the head itself


@real
def test_promtool_takes_the_figures_of_a_node() -> None:
    said = tool("check", "metrics", said=exposed()[0])
    assert said.returncode == 0, said.stderr.decode() + said.stdout.decode()


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    found = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    assert len(found) > 40
    return found


def test_the_dashboard_names_only_figures_that_there_are() -> None:
    names = set(re.findall(r"^(smolcluster_\w+)", b"\n".join(exposed()).decode(), re.MULTILINE))
    used = {name for text in expressions() for name in re.findall(r"smolcluster_\w+", text.replace('"', " ! "))}
    used -= {"smolcluster_api"}
    assert used <= names, used - names
    # And shows all that a node tells.
    node = set(re.findall(r"^(smolcluster_\w+)[{ ]", exposed()[0].decode(), re.MULTILINE))
    assert node - used <= {"smolcluster_train_learning_rate", "smolcluster_node_cpus"}, node - used


@real
def test_promtool_reads_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": text.replace("$__rate_interval", "1m")}
        for number, text in enumerate(expressions())
    ]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    said = tool("check", "rules", str(file))
    assert said.returncode == 0, said.stderr.decode() + said.stdout.decode()
    assert f"{len(rules)} rules found".encode() in said.stdout


def test_the_dashboard_is_one_of_grafana_s() -> None:
    board = json.loads(DASHBOARD.read_text())
    assert board["schemaVersion"] >= 36
    assert {"uid", "title", "panels", "templating", "time"} <= board.keys()
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        mine = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not places & mine, panel["title"]
        places |= mine
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == "${datasource}"
    assert [each["name"] for each in board["templating"]["list"]] == ["datasource", "run", "node"]


@real
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_prometheus_sees_a_run_of_three_nodes(tmp_path: Path) -> None:
    project, port = tmp_path / "project", free_ports(3)
    project.mkdir()
    settings = (f"metrics_port={port}", "metrics_log_interval=5", "training.max_steps=1000000")
    with training(project, *settings) as folder, watching(folder, tmp_path) as prometheus:
        nodes = {(f"node{number + 1}", str(number)) for number in range(3)}
        assert set(prometheus.until("smolcluster_train_steps_total > 20", 3)) == nodes
        assert set(prometheus.until("smolcluster_train_loss > 0", 3)) == nodes
        links = prometheus.until("count by (node, rank) (smolcluster_link_round_trip_seconds > 0)", 3)
        assert links == dict.fromkeys(nodes, 2.0)
        rates = prometheus.until("sum by (node, rank) (rate(smolcluster_link_sent_bytes_total[30s])) > 0", 3)
        assert set(rates) == nodes
        assert set(prometheus.until('smolcluster_job_state{state="running"} == 1', 3)) == {(n, "") for n, _ in nodes}
        assert len(prometheus.until("smolcluster_node_memory_available_bytes > 0", 3)) == 3
        assert set(prometheus.until("smolcluster_rank_resident_bytes > 50e6", 3)) == nodes
        assert prometheus.until("up", 3) == dict.fromkeys({(node, "") for node, _ in nodes}, 1.0)
        (target, *_) = json.loads((folder / "prometheus" / "targets.json").read_text())
        with urllib.request.urlopen(f"http://{target['targets'][0]}/metrics", timeout=30) as answer:
            said = tool("check", "metrics", said=answer.read())
        assert said.returncode == 0, said.stderr.decode() + said.stdout.decode()
    for number in range(3):
        assert RunFolder(folder).hardware(f"node{number + 1}").exists()
        log = RunFolder(folder).supervisor_log(f"node{number + 1}").read_text()
        assert f"http://127.0.0.1:{port + number}/metrics" in log


@real
@pytest.mark.soak
@pytest.mark.timeout(600)
def test_prometheus_sees_a_served_model(tmp_path: Path, serve_model: Callable[..., Served]) -> None:
    port, api = free_ports(3), free_ports(1)
    served = serve_model(f"metrics_port={port},web_interface.api_port={api}")
    assert served.url("api").endswith(f":{api}")
    folder = (tmp_path / "runs" / "latest").resolve()
    asked = {"model": "tiny", "prompt": "the dog saw the", "max_tokens": 4, "temperature": 0}
    assert post(f"http://127.0.0.1:{api}/v1/completions", asked)[0] == 200
    with watching(folder, tmp_path) as prometheus:
        assert set(prometheus.until("smolcluster_stage_alive == 1", 3)) == {
            (f"node{number + 1}", str(number)) for number in range(3)
        }
        links = prometheus.until("count by (node, rank) (smolcluster_link_round_trip_seconds > 0)", 3)
        assert {rank for _, rank in links} == {"0", "1", "2"}
        assert len(prometheus.until("smolcluster_node_cpu_ratio", 3)) == 3
        assert prometheus.until("smolcluster_completion_tokens_total", 1)


@pytest.fixture
def serve_model(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """`python -m smolcluster serve` of a small model over three stages, with more settings."""
    from tests.infer.infer_models import save, small_tokenizer

    (tmp_path / "inventory").mkdir()
    shutil.copy(ROOT / "inventory" / "local.smol.yml", tmp_path / "inventory")
    _, folder = save("llama", tmp_path / "tiny")
    small_tokenizer().save(str(folder / "tokenizer.json"))
    made: list[Served] = []

    def start(settings: str) -> Served:
        made.append(Served(tmp_path, "--model", "tiny", "--override", settings))
        return made[-1]

    yield start
    for served in made:
        served.clean()
