"""`init` on loopback: a responder of our own at 127.0.0.2, answers typed in, and a file that checks."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from smolcluster.cli import app_of, main
from smolcluster.commands import init
from smolcluster.network.homefile import Machine
from smolcluster.network.mdns import Offer, Record, answers, browse, question
from smolcluster.network.wanted import wanted_network
from smolcluster.spec.inventory import load_inventory

from .clusters import CHAIN
from .homes import mac

Responder = Callable[[dict[bytes, list[bytes]]], tuple[str, int]]


def name(text: str) -> bytes:
    return b"".join(bytes([len(part)]) + part.encode() for part in text.split(".")) + b"\0"


def record(owner: bytes, kind: int, data: bytes) -> bytes:
    return owner + struct.pack("!HHIH", kind, 0x8001, 120, len(data)) + data


def response(*records: bytes) -> bytes:
    return struct.pack("!6H", 0, 0x8400, 0, len(records), 0, 0) + b"".join(records)


SERVICE = name("_ssh._tcp.local")


def whole(host: str, address: str, port: int = 22, instance: str = "") -> bytes:
    """An answer that has everything in one packet."""
    label = (instance or host).encode()
    full = bytes([len(label)]) + label + SERVICE
    srv = struct.pack("!HHH", 0, 0, port) + name(f"{host}.local")
    return response(
        record(SERVICE, 12, full), record(full, 33, srv), record(name(f"{host}.local"), 1, socket.inet_aton(address))
    )


@pytest.fixture
def responder() -> Iterator[Responder]:
    """Answers each question whose bytes hold a key with that key's packets; at 127.0.0.2, a port of its own."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.2", 0))
    threads: list[threading.Thread] = []

    def start(replies: dict[bytes, list[bytes]]) -> tuple[str, int]:
        def work() -> None:
            while True:
                packet, asker = sock.recvfrom(9000)
                if packet == b"end":
                    return
                for key, packets in replies.items():
                    for reply in packets if key in packet else ():
                        sock.sendto(reply, asker)

        threads.append(threading.Thread(target=work))
        threads[0].start()
        return sock.getsockname()[:2]

    yield start
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ender:
        ender.bind(("127.0.0.1", 0))
        ender.sendto(b"end", sock.getsockname())
    for thread in threads:
        thread.join(30)
    sock.close()


def test_who_answers_is_found(responder: Responder) -> None:
    where = responder(
        {SERVICE: [whole("mini1", "127.0.0.11", instance="Anna's Mac. mini"), whole("pi5", "127.0.0.12", 2222)]}
    )
    assert browse("127.0.0.1", 1.0, where) == (
        Offer("mini1.local", 22, ("127.0.0.11",)),
        Offer("pi5.local", 2222, ("127.0.0.12",)),
    )


def test_what_an_answer_leaves_out_is_asked_for(responder: Responder) -> None:
    instance = b"\4mini" + SERVICE
    where = responder({
        b"\x00\x0c\x80\x01": [response(record(SERVICE, 12, instance))],
        b"\4mini": [response(record(instance, 33, struct.pack("!HHH", 0, 0, 22) + name("m.local")))],
        name("m.local"): [response(record(name("m.local"), 1, socket.inet_aton("127.0.0.9")))],
    })  # fmt: skip
    assert browse("127.0.0.1", 1.5, where) == (Offer("m.local", 22, ("127.0.0.9",)),)


def test_nobody_answers_and_garbage_is_no_answer(responder: Responder) -> None:
    good = whole("mini1", "127.0.0.11")
    loop = response(b"\xc0\x0c" + struct.pack("!HHIH", 12, 1, 1, 2) + b"\xc0\x0c")
    where = responder({SERVICE: [b"", b"x" * 11, good[:40], loop, question([("a.local", 1)]), b"\xff" * 500]})
    assert browse("127.0.0.1", 0.5, where) == ()


def test_names_may_point_back() -> None:
    packet = response(record(SERVICE, 12, b"\2pi\xc0\x0c"))
    assert answers(packet) == (Record("_ssh._tcp.local", 12, "pi._ssh._tcp.local"),)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_without_an_error(garbage: bytes) -> None:
    answers(garbage)
    answers(response(garbage))


HERE = ["home", "desk"]


def typed(out: Path, lines: list[str], *more: str) -> tuple[int, str]:
    done = CliRunner().invoke(app_of(), ["init", "-o", str(out), *more], input="\n".join([*HERE, *lines, ""]))
    return done.exit_code, done.output


def test_asked_and_found(responder: Responder, tmp_path: Path) -> None:
    host, port = responder({SERVICE: [
        whole("mini1", "127.0.0.11"), whole("mini2", "127.0.0.12"),
        whole("pi5", "127.0.0.15"), whole("nas", "127.0.0.16"),
    ]})  # fmt: skip
    out = tmp_path / "inventory" / "home.smol.yml"
    lines = [
        "y", "", "y", "", "n", "y", "",  # mini1, mini2, not the NAS, pi5
        "box.example", "box", "linux", "",  # one by hand
        "wifi", "n", "mini1, mini2", "mini1", "n", "",  # cables: Thunderbolt; pi5 into mini1; box nowhere
    ]  # fmt: skip
    code, shown = typed(out, lines, "--scan", "127.0.0.1", "--seconds", "1", "--mdns", f"{host}:{port}")
    assert code == 0, shown
    assert "4 found from 127.0.0.1 in 1 s" in shown
    assert "mini1: taken for macos, by its name" in shown
    assert "- 10.10.0.0/24 is free for the Thunderbolt cables (said by you" in shown
    text = out.read_text(encoding="utf-8")
    assert "  mini1: {host: mini1.local}    # found by mDNS at 127.0.0.11" in text
    assert "  box: {host: box.example, kind: linux}    # named by you" in text
    assert "#   - 192.168.50.0/24: free for the Ethernet cables" in text
    cluster = load_inventory(out)
    assert [node.name for node in cluster.nodes] == ["desk", "mini1", "mini2", "pi5", "box"]
    assert [network.name for network in cluster.networks] == ["thunderbolt", "ethernet_pi5", "lan"]
    assert cluster.networks[1].gateways == {"thunderbolt": "mini1", "lan": "mini1"}
    assert {h.node: [r.destination for r in h.routes] for h in wanted_network(cluster).hosts}["mini2"] == [
        "192.168.50.0/24"
    ]
    assert main(["check", "-i", str(out)]) == 0


def test_the_macs_are_asked_how_they_are_cabled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of three answer; what they say is shown, asked about and written."""
    machines = {machine.node: machine for machine in (mac(node, CHAIN) for node in ("mini1", "mini2"))}
    monkeypatch.setattr(init, "ask_mac", lambda one: machines[one.name].found() if one.name in machines else None)
    out = tmp_path / "home.smol.yml"
    lines = ["mini1.local", "", "mini2.local", "", "mini3.local", "", "", "wifi", "y", "y"]
    code, shown = typed(out, lines)
    assert code == 0, shown
    assert "mini1 (en2) is cabled to mini2 (en2)" in shown
    assert "mini3: no answer" in shown
    assert load_inventory(out).networks[0].members == {"mini1": "10.10.0.1", "mini2": "10.10.0.2"}
    assert "# found: each said what is at its ports." in out.read_text(encoding="utf-8")


def test_a_mac_that_cannot_be_asked_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one = Machine(name="mini1", kind="macos", host="127.0.0.1", source="test")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert init.ask_mac(one) is None
    ssh = tmp_path / "ssh"
    ssh.write_text("#!/bin/sh\nread line; echo nonsense\n")
    ssh.chmod(0o755)
    assert init.ask_mac(one) is None


def test_asked_only(tmp_path: Path) -> None:
    out = tmp_path / "home.smol.yml"
    code, shown = typed(out, ["not a host", "10.0.0.9", "pi5", "", "ethernet", ""])
    assert code == 0, shown
    assert "not a host is no host name" in shown
    assert "subnet" not in out.read_text(encoding="utf-8").split("networks:")[1]
    assert "add `user: NAME`" in out.read_text(encoding="utf-8")
    assert main(["check", "-i", str(out)]) == 0


def test_who_logs_in_there(tmp_path: Path) -> None:
    out = tmp_path / "home.smol.yml"
    code, shown = typed(out, ["a b@10.0.0.9", "pi@10.0.0.9", "pi5", "", "ethernet", ""])
    assert code == 0, shown
    assert "a b@10.0.0.9 is no host name or address, and no USER@HOST" in shown
    pi5 = load_inventory(out).node("pi5")
    assert (pi5.host, pi5.user) == ("10.0.0.9", "pi")
    assert "add `user: NAME`" not in out.read_text(encoding="utf-8")


def test_a_file_that_is_there_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "home.smol.yml"
    out.write_text("mine", encoding="utf-8")
    assert main(["init", "-o", str(out)]) == 2
    assert "is there already, and may hold your work" in capsys.readouterr().err
    assert out.read_text(encoding="utf-8") == "mine"
    assert typed(out, ["", "", ""], "--force")[0] == 0
    assert out.read_text(encoding="utf-8") != "mine"


def test_nobody_to_ask_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "home.smol.yml"
    done = CliRunner().invoke(app_of(), ["init", "-o", str(out)], input="")
    assert done.exit_code != 0
    assert not out.exists()


@pytest.mark.parametrize("own", ["nowhere", "300.1.1.1"])
def test_a_wrong_address_to_look_from(tmp_path: Path, own: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "-o", str(tmp_path / "x.smol.yml"), "--scan", own, "--mdns", "127.0.0.2:9"]) == 2
    assert "--scan" in capsys.readouterr().err


def test_a_machine_that_lies_about_its_name_is_left_out(responder: Responder, tmp_path: Path) -> None:
    host, port = responder({SERVICE: [whole("x: {}\n  evil", "127.0.0.11", instance="evil")]})
    out = tmp_path / "home.smol.yml"
    code, shown = typed(out, ["", "", ""], "--scan", "127.0.0.1", "--seconds", "0.5", "--mdns", f"{host}:{port}")
    assert (code, "left out: " in shown) == (0, True)
    assert "evil" not in out.read_text(encoding="utf-8")
