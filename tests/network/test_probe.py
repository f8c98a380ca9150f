"""The measuring tool on loopback, as the script it is on a machine without smolcluster."""

from __future__ import annotations

import ast
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from smolcluster.network import carry_out, gather, probe

PROBE = Path(probe.__file__)
LIMIT = 8 << 20


def run(*words: str) -> tuple[int, dict]:
    done = subprocess.run([sys.executable, "-I", str(PROBE), *words], capture_output=True, text=True, timeout=120)
    return done.returncode, json.loads((done.stdout or "{}").splitlines()[0])


@pytest.mark.parametrize("script", [PROBE, Path(gather.__file__), Path(carry_out.__file__)], ids=lambda p: p.name)
def test_scripts_need_nothing_but_the_standard_library(script: Path) -> None:
    names = set()
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).split(".")[0])
    assert names <= sys.stdlib_module_names


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a probe that serves on 127.0.0.2."""
    command = [sys.executable, "-I", str(PROBE), "serve", "127.0.0.2", "120"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield json.loads(server.stdout.readline())["port"]
        finally:
            server.kill()


def test_round_trip_and_bandwidth_between_two_own_addresses(port: int) -> None:
    code, found = run("measure", "127.0.0.3", "127.0.0.2", str(port), "30", str(LIMIT))
    assert (code, found["bytes"]) == (0, LIMIT)
    assert found["rtt_ms"] > 0
    assert found["mbps"] > 0


def test_time_bounds_what_is_sent(port: int) -> None:
    found = probe.measure("127.0.0.1", "127.0.0.2", port, 0.2, probe.MOST_BYTES)
    assert 0 < int(found["bytes"] or 0) < probe.MOST_BYTES


def test_a_client_that_goes_away_is_no_reason_to_stop(port: int) -> None:
    with socket.create_connection(("127.0.0.2", port), 10) as rude:
        rude.sendall(b"e")
    assert probe.measure("127.0.0.1", "127.0.0.2", port, 5, 1000)["bytes"] == 1000


def test_the_server_ends_by_itself() -> None:
    code, found = run("serve", "127.0.0.1", "0.2")
    assert code == 0
    assert found["port"] > 0


def test_servers_of_their_own_that_are_ended_before_their_time() -> None:
    code, found = run("start", "100", "127.0.0.1", "127.0.0.2", "203.0.113.9")
    # An address that this machine does not have is left out.
    assert (code, sorted(found["ports"])) == (0, ["127.0.0.1", "127.0.0.2"])
    for address, port in found["ports"].items():
        assert probe.measure("127.0.0.1", address, port, 5, 1000)["bytes"] == 1000
    # Nobody else ends them.
    with socket.create_connection(("127.0.0.2", found["ports"]["127.0.0.2"]), 10, ("127.0.0.3", 0)) as stranger:
        stranger.sendall(b"q")
        assert stranger.recv(1) == b""
    words = [str(word) for address, port in found["ports"].items() for word in (address, port)]
    assert run("stop", *words)[0] == 0
    for address, port in found["ports"].items():
        with pytest.raises(ConnectionRefusedError):
            probe.measure("127.0.0.1", address, port, 5, 1000)
    assert run("stop", *words)[0] == 0


def test_who_can_be_dialled_at_the_ports_that_are_allowed() -> None:
    with probe.listen("127.0.0.2") as taken:
        first = taken.getsockname()[1]
        code, found = run("start", "100", f"{first}-{first + 50}", "127.0.0.2")
        (port,) = found["ports"].values()
        assert (code, first < port <= first + 50) == (0, True)
        # Who only looks in keeps nobody else out.
        for _ in range(2):
            assert run("dial", "127.0.0.3", "127.0.0.2", str(port)) == (0, {"dialled": {"127.0.0.2": None}})
        assert run("start", "1", f"{first}-{first}", "127.0.0.2") == (0, {"ports": {}})
        # Why it is left out is told, where nobody reads it as an answer.
        words = [sys.executable, "-I", str(PROBE), "start", "1", f"{first}-{first}", "127.0.0.2"]
        said = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stderr
        assert said == "127.0.0.2: Address already in use\n"
    assert run("stop", "127.0.0.2", str(port))[0] == 0
    code, found = run("dial", "127.0.0.3", "127.0.0.2", str(port))
    assert (code, found) == (0, {"dialled": {"127.0.0.2": "Connection refused"}})


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "224.0.0.1", "mini1.local"])
def test_it_listens_at_one_own_address_only(address: str) -> None:
    assert run("serve", address, "1")[0] == 2


def test_nobody_there_is_said_in_json() -> None:
    with probe.listen("127.0.0.1") as closed:
        port = closed.getsockname()[1]
    code, found = run("measure", "127.0.0.1", "127.0.0.1", str(port), "1", "1000")
    assert code == 3
    assert "refused" in found["error"]


def test_wrong_calls() -> None:
    assert run("fly")[0] == 2
    assert run("ping", "linux", "127.0.0.1", "1500")[0] == 2


def test_every_os_has_its_ping() -> None:
    assert probe.ping_command("linux", "10.0.0.1", "10.0.0.2", 1472, None, True) == [
        "ping", "-n", "-c", "1", "-W", "2", "-s", "1472", "-I", "10.0.0.1", "-M", "do", "10.0.0.2",
    ]  # fmt: skip
    assert probe.ping_command("darwin", "10.0.0.1", "10.0.0.2", 56, 2, False) == [
        "ping", "-n", "-c", "1", "-t", "2", "-s", "56", "-S", "10.0.0.1", "-m", "2", "10.0.0.2",
    ]  # fmt: skip
    assert probe.ping_command("win32", "10.0.0.1", "10.0.0.2", 1472, None, True) == [
        "ping", "-n", "1", "-w", "2000", "-l", "1472", "-S", "10.0.0.1", "-f", "10.0.0.2",
    ]  # fmt: skip


def fake_ping(monkeypatch: pytest.MonkeyPatch, mtu: int) -> None:
    """Two gateways on the way, and packets above `mtu` do not pass."""

    def ping(
        platform: str, source: str, target: str, size: int = 56, ttl: int | None = None, whole: bool = False
    ) -> tuple[int, str]:
        if ttl is not None and ttl < 3:
            answer = (
                f"PING {target} ({target}) from {source} : 56(84) bytes of data.\nFrom 10.0.1.1 icmp_seq=1 Time to live"
                if ttl == 1
                else f"36 bytes from 10.0.{ttl}.1: Time to live exceeded"
            )
            return 1, answer + "\n"
        if whole and size + 28 > mtu:
            return 1, "ping: local error: message too long, mtu=1500\n"
        return 0, f"64 bytes from {target}: icmp_seq=1 ttl=62 time=0.437 ms\n"

    monkeypatch.setattr(probe, "ping", ping)


@pytest.mark.parametrize(("passes", "found"), [(9000, 1500), (1500, 1500), (1400, 1400), (577, 577), (100, None)])
def test_survey(monkeypatch: pytest.MonkeyPatch, passes: int, found: int | None) -> None:
    fake_ping(monkeypatch, passes)
    assert probe.survey("linux", "10.0.1.9", "10.0.3.9", 1500) == {
        "rtt_ms": 0.437,
        "hops": ["10.0.1.1", "10.0.2.1"],
        "mtu": found,
    }


def test_survey_without_ping_or_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "ping", lambda *_, **__: (1, "Request timeout\n"))
    assert probe.survey("linux", "10.0.1.9", "10.0.3.9", 1500) == {"rtt_ms": None, "hops": None, "mtu": None}
    monkeypatch.undo()
    monkeypatch.setenv("PATH", "")
    assert probe.survey("linux", "127.0.0.1", "127.0.0.1", 1500)["error"] == "there is no ping here"


@pytest.mark.skipif(shutil.which("ping") is None, reason="this machine has no ping")
def test_a_real_ping_on_loopback() -> None:
    code, found = run("ping", "linux", "127.0.0.1", "1500", "127.0.0.1")
    if found["pings"]["127.0.0.1"]["rtt_ms"] is None:
        pytest.skip("ping is not allowed here")
    assert (code, found["pings"]["127.0.0.1"]["hops"], found["pings"]["127.0.0.1"]["mtu"]) == (0, [], 1500)


def test_gather_prints_what_read_takes() -> None:
    from smolcluster.network.read import found_host

    done = subprocess.run(
        [sys.executable, "-I", gather.__file__, "here", "linux", "127.0.0.1 1 127.0.0.1 22"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    value = json.loads(done.stdout)
    assert (done.returncode, value["node"], value["kind"], value["schema"]) == (0, "here", "linux", 1)
    if value["outputs"]["ip -j -d addr"] and value["outputs"]["sysctl net.ipv4.ip_forward"]:
        assert found_host(done.stdout).ssh_device == "lo"
