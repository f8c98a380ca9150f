"""From names to the addresses of the moment, and from what was printed on the machines to values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smolcluster.cli import main
from smolcluster.network.expected import Ping, Speed, expected_pairs
from smolcluster.network.measuring import measured_in, neighbours_of, rounds, with_addresses
from smolcluster.network.parse import FormatError

from .clusters import CHAIN, HOME_FILE
from .homes import bare, situation
from .test_command import write_found


def test_names_become_addresses() -> None:
    machines = bare(CHAIN)
    now = situation(machines)
    pairs = expected_pairs(now.cluster, now.wanted, dict(now.found))
    known, untold = with_addresses(pairs, now.cluster, now.found)
    assert untold == ()
    by_name = {(p.src, p.dst): p for p in known}
    assert (by_name["macbook", "pi5"].source, by_name["macbook", "pi5"].destination) == ("172.20.10.4", "192.168.50.2")
    assert by_name["win", "mini1"].destination == "172.20.10.5"
    machines["win"].leases = {}
    now = situation(machines)
    known, untold = with_addresses(pairs, now.cluster, now.found)
    assert len(known) == len(pairs) - len(untold) == len(pairs) - 12
    assert "win -> mini1: not measured, nothing tells win's address on wifi" in map(str, untold)
    assert {one.node for one in untold} == {"win"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "? (10.10.0.2) at 36:5f:d5:0:1:0 on bridge0 ifscope [bridge]\n"
            "? (10.10.0.9) at (incomplete) on bridge0 ifscope [bridge]\n"
            "mini3.local (10.10.0.3) at aa:bb:cc:dd:ee:ff on bridge0 permanent [bridge]\n",
            {"10.10.0.2": "36:5f:d5:00:01:00", "10.10.0.3": "aa:bb:cc:dd:ee:ff"},
        ),
        (
            '[{"dst":"10.0.0.1","dev":"eth0","lladdr":"AA:00:00:00:00:01","state":["REACHABLE"]},'
            '{"dst":"10.0.0.2","dev":"eth0","state":["FAILED"]},'
            '{"dst":"10.0.0.3","dev":"eth0","lladdr":"aa:00:00:00:00:03","state":["FAILED"]}]',
            {"10.0.0.1": "aa:00:00:00:00:01"},
        ),
        (
            '{"IPAddress":"10.0.0.1","LinkLayerAddress":"AA-00-00-00-00-01","State":4}',
            {"10.0.0.1": "aa:00:00:00:00:01"},
        ),
        ('[{"IPAddress":"10.0.0.1","LinkLayerAddress":"00-00-00-00-00-00","State":0}]', {}),
        ("", {}),
        ("[]", {}),
    ],
    ids=["arp", "ip neigh", "one of Windows", "unanswered on Windows", "nothing", "none"],
)
def test_neighbours(text: str, found: dict[str, str]) -> None:
    assert neighbours_of(text) == found


def test_a_folder_of_what_was_printed() -> None:
    now = situation(bare(CHAIN))
    pairs, _ = with_addresses(expected_pairs(now.cluster, now.wanted, dict(now.found)), now.cluster, now.found)
    survey = {"rtt_ms": 0.4, "hops": ["192.168.50.1"], "mtu": 1500}
    none = {"rtt_ms": None, "hops": None, "mtu": None}
    files = {
        "pi5.pings.json": json.dumps({"pings": {"10.10.0.2": survey}})
        + "\n"
        + json.dumps({"pings": {"10.10.0.3": none}}),
        "mini1.speed.mini2.json": '{"rtt_ms": 0.2, "mbps": 15999.5, "bytes": 1}',
        "mini1.speed.pi5.json": '{"error": "timed out"}',
        "mini1.neighbours.txt": "? (10.10.0.2) at 0:0:0:0:0:1 on bridge0",
        "README": "not ours",
    }
    measured = measured_in(files, pairs)
    assert measured.pings == (
        Ping(src="pi5", dst="mini2", rtt_ms=0.4, hops=("192.168.50.1",), mtu=1500),
        Ping(src="pi5", dst="mini3"),
    )
    assert measured.speeds == (Speed(src="mini1", dst="mini2", rtt_ms=0.2, mbps=15999.5), Speed(src="mini1", dst="pi5"))
    assert measured.neighbours == {"mini1": {"10.10.0.2": "00:00:00:00:00:01"}}
    with pytest.raises(FormatError, match=r"probe\.py ping: is no JSON"):
        measured_in({"pi5.pings.json": "Traceback"}, pairs)


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_found(bare(CHAIN), tmp_path / "found")
    common = ("-i", str(HOME_FILE), "--found", str(folder))
    assert main(["network", "pairs", *common]) == 0
    told = json.loads(capsys.readouterr().out)
    pairs = told["pairs"]
    assert told["untold"] == []
    assert {"src": "pi5", "dst": "mini2", "source": "192.168.50.2", "destination": "10.10.0.2"}.items() <= pairs[
        next(i for i, p in enumerate(pairs) if (p["src"], p["dst"]) == ("pi5", "mini2"))
    ].items()
    # Nothing is set up yet: what the machines lack is named.
    measured = tmp_path / "measured"
    measured.mkdir()
    none = {"pings": {"10.10.0.2": {"rtt_ms": None, "hops": None, "mtu": None}}}
    (measured / "pi5.pings.json").write_text(json.dumps(none), encoding="utf-8")
    assert main(["network", "verify", str(measured), *common]) == 3
    assert "wrong address: bridge0 of mini1 should have 10.10.0.1/24 and has none\n" in capsys.readouterr().out


def test_every_wire_is_filled_once_and_no_machine_twice_at_a_time() -> None:
    now = situation(bare(CHAIN))
    known, _ = with_addresses(expected_pairs(now.cluster, now.wanted, dict(now.found)), now.cluster, now.found)
    done = rounds(known)
    for group in done:
        ends = [node for pair in group for node in (pair.src, pair.dst)]
        assert len(ends) == len(set(ends))
    measured = [frozenset((pair.src, pair.dst)) for group in done for pair in group]
    assert len(measured) == len(set(measured))
    assert set(measured) == {frozenset((pair.src, pair.dst)) for pair in known if not pair.passes}


def test_neighbours_come_with_the_pings() -> None:
    now = situation(bare(CHAIN))
    pairs, _ = with_addresses(expected_pairs(now.cluster, now.wanted, dict(now.found)), now.cluster, now.found)
    pings = json.dumps({"pings": {"10.10.0.2": {"rtt_ms": 0.1, "hops": [], "mtu": 1500}}})
    arp = json.dumps({"neighbours": "? (10.10.0.2) at 36:5f:d5:0:1:0 on bridge0 ifscope [bridge]\n"})
    found = measured_in({"mini1.pings.json": f"{pings}\n{arp}\n", "mini3.pings.json": ""}, pairs)
    assert [(ping.src, ping.dst, ping.rtt_ms) for ping in found.pings] == [("mini1", "mini2", 0.1)]
    assert found.neighbours == {"mini1": {"10.10.0.2": "36:5f:d5:00:01:00"}}
