"""`python -m smolcluster network`: what it prints, byte for byte, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smolcluster.cli import main
from smolcluster.network import gather
from smolcluster.network.expected import Measured, Ping, expected_pairs

from .clusters import CHAIN, HOME_FILE
from .homes import bare, situation
from .machines import Machine

INVENTORY = ("-i", str(HOME_FILE))


def write_found(machines: dict[str, Machine], folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for machine in machines.values():
        outputs = gather.gather(machine.kind, machine.run) | {gather.SSH: machine.ssh}
        value = {"schema": 1, "node": machine.node, "kind": machine.kind, "outputs": outputs}
        (folder / f"{machine.node}.json").write_text(json.dumps(value), encoding="utf-8")
    return folder


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["network", *words])
    out, err = capsys.readouterr()
    return code, out, err


def test_plan_from_the_inventory_alone(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "plan", *INVENTORY)
    assert (code, run(capsys, "plan", *INVENTORY)[1]) == (0, out)
    assert "network thunderbolt: nobody has looked how it is cabled; taken for a chain, on one bridge" in err
    hosts = {host["node"]: host for host in json.loads(out)["hosts"]}
    assert [route["destination"] for route in hosts["mini2"]["routes"]] == ["192.168.50.0/24", "192.168.51.0/24"]


def test_diff_then_apply_then_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    machines = bare(CHAIN)
    folder = write_found(machines, tmp_path / "found")
    code, out, _ = run(capsys, "diff", *INVENTORY, "--found", str(folder))
    assert code == 0
    assert out == run(capsys, "diff", *INVENTORY, "--found", str(folder))[1]
    assert out.startswith(
        "mini1: 5 steps\n  bridge0 ipv4\n    - dhcp\n    + manual 10.10.0.1/24\n"
        "  bridge0 routes\n    - none\n    + 192.168.51.0/24 via 10.10.0.3\n"
    )
    code, out, _ = run(capsys, "diff", *INVENTORY, "--found", str(folder), "--json")
    for host in json.loads(out)["hosts"]:
        for action in host["apply"]:
            if action["path"]:
                machines[host["node"]].files[action["path"]] = action["text"]
            else:
                machines[host["node"]].run(action["argv"])
    write_found(machines, folder)
    code, out, _ = run(capsys, "diff", *INVENTORY, "--found", str(folder))
    assert (code, set(out.splitlines())) == (0, {f"{node}: nothing to do" for node in machines})


def test_diff_refuses_with_file_and_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    machines = bare(CHAIN)
    machines["mini2"].ssh = "172.20.10.4 50000 172.20.10.99 22"
    folder = write_found(machines, tmp_path / "found")
    code, out, err = run(capsys, "diff", *INVENTORY, "--found", str(folder))
    assert code == 2
    assert "mini2: nothing to do" in out
    assert "machines.mini2.host: nothing tells which interface 172.20.10.99" in err
    assert run(capsys, "diff", *INVENTORY, "--found", str(folder), "--json")[:2] == (2, "")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nonsense", "is no JSON"),
        ("{}", "is no found state of version 1"),
        ('{"schema": 1, "node": "mini1", "kind": "amiga", "outputs": {}}', "names no node, kind or outputs"),
        ('{"schema": 1, "node": "mini9", "kind": "windows", "outputs": {}}', 'the inventory has no machine "mini9"'),
        ('{"schema": 1, "node": "ipad", "kind": "ipados", "outputs": {}}', "a machine of this kind cannot be asked"),
        (
            '{"schema": 1, "node": "mini1", "kind": "macos", "outputs": {}}',
            "mini1: its tools do not answer as those of a macos machine do: sysctl net.inet.ip.forwarding: says",
        ),
        (
            '{"schema": 1, "node": "mini1", "kind": "macos", "outputs": {"netstat -rn -f inet": "Kernel routing table'
            '\\nDestination Gateway Genmask Flags MSS Window irtt Iface\\n0.0.0.0 192.0.2.1 0.0.0.0 UG 0 0 0 eth0"}}',
            "is `kind: macos` right for mini1?",
        ),
    ],
)
def test_a_found_state_that_is_none(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, complaint: str
) -> None:
    file = tmp_path / "x.json"
    file.write_text(text, encoding="utf-8")
    code, _, err = run(capsys, "diff", *INVENTORY, "--found", str(file))
    assert code == 2
    assert complaint in err


def test_without_anything_found_there_is_no_diff(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = run(capsys, "diff", *INVENTORY)
    assert (code, "--found: nobody knows what the machines have" in err) == (2, True)
    assert run(capsys, "diff", *INVENTORY, "--found", str(tmp_path / "none.json"))[0] == 2


def test_verify(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    machines = bare(CHAIN)
    folder = write_found(machines, tmp_path / "found")
    for host in json.loads(run(capsys, "diff", *INVENTORY, "--found", str(folder), "--json")[1])["hosts"]:
        for action in host["apply"]:
            if action["path"]:
                machines[host["node"]].files[action["path"]] = action["text"]
            else:
                machines[host["node"]].run(action["argv"])
    write_found(machines, folder)
    now = situation(machines)
    pairs = expected_pairs(now.cluster, now.wanted, dict(now.found))
    pings = tuple(Ping(src=p.src, dst=p.dst, rtt_ms=0.5, hops=p.passes, mtu=1500) for p in pairs)
    file, out = tmp_path / "measured.json", tmp_path / "runs" / "network" / "now"
    words = ("verify", str(file), *INVENTORY, "--found", str(folder), "--out", str(out))
    file.write_text(Measured(pings=pings).model_dump_json(by_alias=True), encoding="utf-8")
    assert run(capsys, *words)[0] == 0
    assert sorted(path.name for path in out.iterdir()) == ["report.json", "topology.svg", "wanted.json"]
    dead = tuple(p if {p.src, p.dst} != {"pi5", "pi4"} else Ping(src=p.src, dst=p.dst) for p in pings)
    file.write_text(Measured(pings=dead).model_dump_json(by_alias=True), encoding="utf-8")
    code, shown, err = run(capsys, *words)
    assert (code, err.splitlines()[-1]) == (3, "the network is not as it should be: 2 found")
    assert "unexplained" in shown
    file.write_text('{"pings": [{"src": 1}]}', encoding="utf-8")
    assert run(capsys, *words)[0] == 2
