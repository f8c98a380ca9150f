"""The role boot_service where sudo asks, and where a user's services come to outlive a login: nothing is orphaned."""

from __future__ import annotations

import pytest
from ansible_boot import Machine
from ansible_lab import Cluster

from smolcluster.jobs.bootservice import read_note

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SYSTEM = ["etc/multi-user.target.wants/smolcluster-boot", "etc/smolcluster-boot"]
USER = [
    "home/.config/systemd/user/default.target.wants/smolcluster-boot",
    "home/.config/systemd/user/smolcluster-boot",
]
STAYS = "node1: the service that starts first with the machine is still there: it takes an administrator, and sudo"
FIX = "fix: give sudo's password with ansible-playbook -K"


@pytest.fixture
def machine(local: Cluster) -> Machine:
    return Machine.make(local)


def install(machine: Machine, run_id: str) -> None:
    node_file = machine.run(run_id).file
    done = machine.cluster.play(machine.role("main.yml", boot_service_node_file=str(node_file)))
    assert done.code == 0, done.text


def test_without_sudos_password_the_service_stays_whole_until_it_is_given(machine: Machine) -> None:
    machine.give("password")
    install(machine, "first")
    machine.give("password", there=False)
    machine.told()

    stopped = machine.cluster.play("stop")
    assert stopped.code == 2, stopped.text
    assert STAYS in stopped.text
    assert "a password is required" in stopped.text
    assert FIX in stopped.text
    assert "node1: first is still served when the machine starts" in stopped.text
    assert "first is not served any more" not in stopped.text
    assert "Traceback" not in stopped.text
    # A machine that has lost smolcluster does the same by the note alone.
    lost = machine.cluster.play(machine.role("remove.yml", boot_service_equipped=False))
    assert lost.code == 2, lost.text
    assert STAYS in lost.text
    assert machine.units() == SYSTEM
    assert machine.told() == []
    note = read_note(machine.cluster.runs, "node1")
    assert note is not None
    assert note.run_id == "first"

    machine.give("password")
    stopped = machine.cluster.play("stop", "run_id=first")
    assert stopped.code == 0, stopped.text
    assert "node1: first is not served any more when the machine starts" in stopped.text
    assert machine.units() == []
    assert machine.told() == [f"sudo stop {note.name}", "sudo daemon-reload"]
    assert read_note(machine.cluster.runs, "node1") is None


def test_what_fails_half_way_is_found_again(machine: Machine) -> None:
    """sudo works, and a folder cannot be made: what was written so far has its note."""
    machine.give("password")
    (machine.place / "etc/multi-user.target.wants").touch()
    failed = machine.cluster.play(machine.role("main.yml", boot_service_node_file=str(machine.run("first").file)))
    assert failed.code == 2, failed.text
    assert read_note(machine.cluster.runs, "node1") is not None
    (machine.place / "etc/multi-user.target.wants").unlink()
    lost = machine.cluster.play(machine.role("remove.yml", boot_service_equipped=False))
    assert lost.code == 0, lost.text
    assert machine.units() == []
    assert read_note(machine.cluster.runs, "node1") is None


def test_switching_lingering_on_and_off_leaves_one_service(machine: Machine) -> None:
    machine.give("password")
    install(machine, "first")
    assert machine.units() == SYSTEM
    first = read_note(machine.cluster.runs, "node1")
    assert first is not None
    machine.told()

    # It takes sudo once more, which is said before anything is started.
    machine.give("lingers")
    machine.give("password", there=False)
    refused = machine.cluster.play(machine.role("check.yml"))
    assert refused.code == 2, refused.text
    assert "on_boot: 1 problem; nothing was started." in refused.text
    assert "1. node1: the service of first there takes an administrator to be taken away, and sudo" in refused.text
    machine.give("password")
    assert machine.cluster.play(machine.role("check.yml")).code == 0

    install(machine, "second")
    assert machine.units() == USER
    assert machine.told() == [f"sudo stop {first.name}", "sudo daemon-reload", "--user daemon-reload"]
    machine.give("password", there=False)
    install(machine, "third")
    assert machine.units() == USER
    assert "stop" not in " ".join(machine.told()), "it lies where the new one does"

    # The other way round: the user's manager cannot be told any more, and sudo is not asked for what is the user's.
    machine.give("lingers", there=False)
    machine.give("password")
    install(machine, "fourth")
    assert machine.units() == SYSTEM
    assert machine.told()[0] == f"--user stop {first.name}"
    note = read_note(machine.cluster.runs, "node1")
    assert note is not None
    assert (note.run_id, note.system) == ("fourth", True)
