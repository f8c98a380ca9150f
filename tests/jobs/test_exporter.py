"""A node's figures over HTTP: what is told, to whom, and from files that grow, are thinned and begin anew."""

from __future__ import annotations

import http.client
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from smolcluster.errors import ConfigError
from smolcluster.jobs.exporter import MetricsServer, RankFigures
from smolcluster.observe.exposition import NodeFigures
from smolcluster.plan.exporters import Exporter, exporters_of
from smolcluster.plan.make import make_plan
from smolcluster.plan.types import Plan
from smolcluster.runtime.metrics import MetricsWriter, cut_after
from smolcluster.runtime.metricsfile import HardwareRecord, LinkRecord, StepRecord, ValidationRecord
from smolcluster.runtime.runfolder import JobState
from smolcluster.spec.request import Request
from smolcluster.spec.resolve import resolve
from smolcluster.spec.run import CommSpec
from tests.train.train_folders import plan_of, run_spec

ROOT = Path(__file__).resolve().parents[2]
Figures = dict[tuple[str, ...], float]


def step(number: int, **changes: Any) -> StepRecord:
    fields: dict[str, Any] = {
        "step": number, "time": 100.0 + number, "loss": 5.0 - number, "lr": 0.1, "tokens": 64, "tokens_per_s": 32.0,
        "grad_norm": 1.5, "step_s": 2.0, "compute_s": 1.25, "comm_s": 0.5, "data_s": 0.25, "bytes_out": 1000,
        "bytes_in": 900, "total_steps": 12, **changes,
    }  # fmt: skip
    return StepRecord(**fields)


def link(peer: int, number: int = 2, **changes: Any) -> LinkRecord:
    fields: dict[str, Any] = {
        "step": number, "time": 100.5 + number, "peer": peer, "node": f"pi{peer}", "address": "10.0.0.2",
        "seconds": 4.0, "bytes_out": 2000, "bytes_in": 1800, "mbps": 0.0076, "rtt_ms": 0.5, "rtt_by": "ping",
        "buffered": 64, "unread": 0, **changes,
    }  # fmt: skip
    return LinkRecord(**fields)


def machine() -> HardwareRecord:
    return HardwareRecord(
        time=1.0, cpu=0.5, cores=4, load=1.5, memory_mb=8192, memory_free_mb=2048, rss_mb={0: 300.0},
        temperature_c=61.5, throttled="too little voltage",
    )  # fmt: skip


def job(**changes: Any) -> JobState:
    fields: dict[str, Any] = {"run_id": "r1", "node": "mini1", "state": "running", "pid": 1, "generation": 0}
    return JobState(**{**fields, "ranks": {0: "running", 1: "3"}, "restarts": 2, **changes})


def read(text: bytes) -> Figures:
    """By the metric's name and its labels' values without run and node, which are checked."""
    found: Figures = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = dict(sample.labels)
            assert (labels.pop("run"), labels.pop("node")) == ("r1", "mini1")
            found[sample.name.removeprefix("smolcluster_"), *labels.values()] = sample.value
    return found


def test_all_figures_of_a_node() -> None:
    figures = NodeFigures("r1", "mini1", job)
    for record in (step(1), step(2, staleness=1), link(1), link(2, rtt_ms=None, buffered=None)):
        figures.take(0, record)
    figures.take(0, ValidationRecord(step=2, time=103.0, val_loss=2.5))
    figures.take(0, link(1, 4, rtt_ms=0.25))
    figures.take_hardware(machine())
    told = read(figures.text())
    assert told["train_steps_total", "0"] == 2
    assert told["train_tokens_total", "0", "tokens"] == 128
    assert told["train_loss", "0"] == 3.0
    assert told["train_validation_loss", "0"] == 2.5
    assert told["train_staleness_steps", "0"] == 1
    assert told["train_step_seconds_total", "0"] == 4.0
    assert told["train_compute_seconds_total", "0"] == 2.5
    assert told["train_communication_seconds_total", "0"] == 1.0
    assert told["train_data_seconds_total", "0"] == 0.5
    assert told["train_sent_bytes_total", "0"] == 2000
    assert told["train_received_bytes_total", "0"] == 1800
    assert told["train_last_step_timestamp_seconds", "0"] == 102.0
    assert told["link_sent_bytes_total", "1", "pi1", "0"] == 4000
    assert told["link_received_bytes_total", "2", "pi2", "0"] == 1800
    assert told["link_round_trip_seconds", "1", "pi1", "0"] == 0.00025
    assert ("link_round_trip_seconds", "2", "pi2", "0") not in told  # nobody knows
    assert told["link_send_buffer_bytes", "1", "pi1", "0"] == 64
    assert told["node_cpu_ratio",] == 0.5
    assert told["node_temperature_celsius",] == 61.5
    assert told["node_throttled",] == 1
    assert told["node_memory_available_bytes",] == 2048 << 20
    assert told["rank_resident_bytes", "0"] == 300 << 20
    assert told["job_state", "running"] == 1
    assert told["job_state", "failed"] == 0
    assert told["job_restarts_total",] == 2
    assert (told["rank_running", "0"], told["rank_running", "1"]) == (1, 0)


def test_what_the_system_does_not_tell_is_left_out() -> None:
    figures = NodeFigures("r1", "mini1", job)
    figures.take_hardware(machine().model_copy(update={"temperature_c": None, "throttled": None, "load": None}))
    names = {name for name, *_ in read(figures.text())}
    assert not names & {"node_temperature_celsius", "node_throttled", "node_load1"}
    assert "node_cpu_ratio" in names


def test_each_record_counts_once_though_the_file_is_thinned_and_goes_back(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    figures = NodeFigures("r1", "mini1", job)
    ranks = RankFigures(figures, {0: file})
    ranks.read()  # it is not there yet
    with MetricsWriter(file, max_lines=8) as metrics:
        for number in range(1, 8):
            metrics.write(step(number))
        ranks.read()
        metrics.write(step(8))  # now every second line of the older half goes
        assert len(file.read_text().splitlines()) < 8
    with MetricsWriter(file) as metrics:
        metrics.write(link(1, 8))
    ranks.read()
    file.write_text(file.read_text())
    file.rename(tmp_path / "copy")
    file.write_text((tmp_path / "copy").read_text())  # another file with the same lines
    ranks.read()
    assert read(figures.text())["train_sent_bytes_total", "0"] == 8000
    assert read(figures.text())["link_sent_bytes_total", "1", "pi1", "0"] == 2000
    cut_after(file, 6)  # a restart from a checkpoint takes steps again, which costs bytes again
    with MetricsWriter(file) as metrics:
        metrics.write(step(7, time=200.0))
    ranks.read()
    told = read(figures.text())
    assert told["train_sent_bytes_total", "0"] == 9000
    assert told["train_steps_total", "0"] == 7


def test_a_damaged_line_is_skipped(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    figures = NodeFigures("r1", "mini1", job)
    whole = step(1).model_dump_json(by_alias=True).encode()
    file.write_bytes(b"\x00\x00\n[1]\n{}\n" + whole + b'\n{"norms": {}}\n')
    RankFigures(figures, {0: file}).read()
    assert read(figures.text())["train_steps_total", "0"] == 1


@contextmanager
def served(addresses: tuple[str, ...], key: str, file: Path, port: int = 0) -> Iterator[int]:
    figures = NodeFigures("r1", "mini1", job)
    server = MetricsServer(Exporter("mini1", addresses, port), key, RankFigures(figures, {0: file}), figures.text)
    try:
        yield server._servers[0].server_address[1] if server._servers else 0
    finally:
        server.close()


def ask(port: int, path: str = "/metrics", method: str = "GET", **headers: str) -> tuple[int, bytes, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.getheader("Content-Type", "")
    finally:
        connection.close()


def test_a_scrape_reads_what_ranks_have_written(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    with served(("127.0.0.1",), "k", file) as port, MetricsWriter(file) as metrics:
        for number in (1, 2):
            metrics.write(step(number))
            status, text, kind = ask(port)
            assert (status, kind.split(";")[0]) == (200, "text/plain")
            assert read(text)["train_steps_total", "0"] == number
        assert ask(port, "/")[0] == 404
        assert ask(port, method="POST")[0] == 501


def test_beyond_loopback_it_asks_for_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smolcluster.plan.exporters.is_loopback", lambda _: False)
    with served(("127.0.0.1",), "the-key", tmp_path / "metrics.jsonl") as port:
        for said in ({}, {"Authorization": "Bearer the-ke"}, {"Authorization": "the-key"}):
            status, text, _ = ask(port, **said)
            assert status == 401
            assert b"smolcluster_" not in text
        assert ask(port, Authorization="Bearer the-key")[0] == 200


def test_a_page_of_elsewhere_reads_nothing(tmp_path: Path) -> None:
    """Whose name its own server says is 127.0.0.1."""
    with served(("127.0.0.1",), "k", tmp_path / "metrics.jsonl") as port:
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "[::"):
            status, text, _ = ask(port, Host=host)
            assert (status, b"smolcluster_" in text) == (403, False)
        for host in ("localhost", f"127.0.0.1:{port}", "127.9.9.9", "[::1]:1"):
            assert ask(port, Host=host)[0] == 200


def test_who_says_nothing_holds_up_nobody_for_long(tmp_path: Path) -> None:
    with served(("127.0.0.1",), "k", tmp_path / "metrics.jsonl") as port:
        with socket.create_connection(("127.0.0.1", port)):
            assert ask(port)[0] == 200
        assert ask(port)[0] == 200


def test_who_asks_a_letter_at_a_time_is_cut_off(tmp_path: Path) -> None:
    with served(("127.0.0.1",), "k", tmp_path / "metrics.jsonl") as port:
        with socket.create_connection(("127.0.0.1", port), timeout=0.2) as slow:
            end = time.monotonic() + 60
            hung_up = False
            while not hung_up:
                assert time.monotonic() < end, "it is listened to for ever"
                try:
                    slow.sendall(b"G")
                    hung_up = slow.recv(100) == b""
                except TimeoutError:
                    continue
                except OSError:
                    hung_up = True
        assert ask(port)[0] == 200


def test_an_address_that_cannot_be_had_is_told_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with served(("127.0.0.1",), "k", tmp_path / "metrics.jsonl", port) as none:
            assert none == 0
        assert f"no metrics on 127.0.0.1 port {port}" in caplog.text


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="no IPv6 here")
def test_an_address_may_be_of_ipv6(tmp_path: Path) -> None:
    with served(("::1",), "k", tmp_path / "metrics.jsonl") as port:
        connection = http.client.HTTPConnection("::1", port, timeout=30)
        connection.request("GET", "/metrics")
        assert connection.getresponse().status == 200
        connection.close()


def test_machines_that_share_an_address_take_ports_in_a_row() -> None:
    run = run_spec("fsdp", (2, 2, 2))
    assert exporters_of(plan_of(run, (2, 2, 2))) == ()
    run = run.model_copy(update={"comm": CommSpec(metrics_port=65500)})
    found = exporters_of(plan_of(run, (2, 2, 2)))
    assert [(each.node, each.addresses, each.port) for each in found] == [
        (f"node{number + 1}", ("127.0.0.1",), 65500 + number) for number in range(3)
    ]
    assert not any(each.asks_for_key for each in found)
    plan = plan_of(run, (2, 2, 2))
    ranks = tuple(rank.model_copy(update={"listen": (f"10.0.0.{rank.rank}",)}) for rank in plan.ranks)
    found = exporters_of(plan.model_copy(update={"ranks": ranks}))
    assert [each.port for each in found] == [65500] * 3
    assert all(each.asks_for_key for each in found)


def test_a_plan_without_it_is_what_it_was() -> None:
    assert "metrics_port" not in plan_of(run_spec("fsdp", (2, 2)), (2, 2)).to_json()


def test_a_port_that_a_rank_has_is_refused_before_anything_starts() -> None:
    def planned(port: int) -> Plan:
        settings = ("port=65432", f"metrics_port={port}")
        resolved = resolve(Request(ROOT / "inventory" / "local.smol.yml", "fsdp", overrides=settings))
        return make_plan(resolved.cluster, resolved.run)

    assert [each.port for each in exporters_of(planned(65500))] == [65500, 65501, 65502]
    with pytest.raises(
        ConfigError, match=r"rank \d \(node\d\) and metrics_port \(node\d\) share 65433 on 127\.0\.0\.1"
    ):
        planned(65431)
