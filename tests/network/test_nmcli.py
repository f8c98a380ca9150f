"""The commands for Linux, given to the real nmcli: it checks every property, and needs no daemon to."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from smolcluster.network.actions import actions_of
from smolcluster.network.diff import plan_host
from smolcluster.network.found import Ipv4, KeptRoute
from smolcluster.network.steps import Ipv4Step, MtuStep, RoutesStep, Step

from .clusters import CHAIN
from .homes import bare, situation

pytestmark = pytest.mark.skipif(shutil.which("nmcli") is None, reason="this machine has no nmcli")


def offline(step: Step, keyfile: str) -> str:
    """The connection's file after a step, as nmcli writes it. `up` and `reapply` need a daemon and are left out."""
    for action in actions_of(step):
        argv = [word for word in action.argv if word != step.profile or "add" in action.argv]
        if argv[1:3] not in (["connection", "add"], ["connection", "modify"]):
            continue
        done = subprocess.run(
            ["nmcli", "--offline", *argv[1:]], input=keyfile, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, (argv, done.stderr)
        keyfile = done.stdout
    return keyfile


def section(keyfile: str, name: str) -> list[str]:
    lines = keyfile.partition(f"[{name}]\n")[2].partition("\n[")[0].splitlines()
    return sorted(line for line in lines if line)


def test_the_whole_plan_of_a_pi() -> None:
    keyfile = ""
    for step in plan_host("pi5", situation(bare(CHAIN))).steps:
        keyfile = offline(step, keyfile)
    assert {"id=smolcluster-eth0", "interface-name=eth0", "autoconnect-priority=100"} <= set(
        section(keyfile, "connection")
    )
    assert section(keyfile, "ipv4") == [
        "address1=192.168.50.2/24",
        "method=manual",
        "never-default=true",
        "route1=10.10.0.0/24,192.168.50.1",
        "route2=172.20.10.0/24,192.168.50.1",
        "route3=192.168.51.0/24,192.168.50.1",
    ]


def test_there_and_back_gives_the_same_file() -> None:
    common = {"node": "pi5", "os": "linux", "device": "eth0"}
    route, other = (
        KeptRoute(destination="10.10.0.0/24", via="192.168.50.1"),
        KeptRoute(destination="10.9.0.0/16", via="192.168.50.1"),
    )
    first, *_ = plan_host("pi5", situation(bare(CHAIN))).steps
    before = offline(first, "")
    ours = {**common, "profile": "smolcluster-eth0"}
    manual = Ipv4(method="manual", address="192.168.50.2/24", router="192.168.50.1")
    steps: list[Step] = [
        Ipv4Step.model_validate({**ours, "before": Ipv4(method="off"), "after": manual}),
        MtuStep.model_validate({**ours, "before": None, "after": 9000}),
        RoutesStep.model_validate({**ours, "before": (), "after": (route, other)}),
    ]  # fmt: skip
    after = before
    for step in steps:
        after = offline(step, after)
    assert "mtu=9000" in section(after, "ethernet")
    # Older versions write the gateway beside the first address.
    assert any("192.168.50.1" in line for line in section(after, "ipv4") if not line.startswith("route"))
    for step in reversed(steps):
        after = offline(step.inverse(), after)
    assert after.replace("never-default=true\n", "") == before
    # In a connection of the owner's, one route at a time, and the rest of it as it was.
    theirs = {**common, "profile": "uuid-of-theirs"}
    kept = offline(RoutesStep.model_validate({**theirs, "before": (), "after": (other,)}), before)
    more = offline(RoutesStep.model_validate({**theirs, "before": (other,), "after": (other, route)}), kept)
    assert offline(RoutesStep.model_validate({**theirs, "before": (other, route), "after": (other,)}), more) == kept
