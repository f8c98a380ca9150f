"""PowerShell that nobody could run here: at least its grammar is right, in files and in the steps of a plan."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tree_sitter_powershell
from tree_sitter import Language, Node, Parser

from smolcluster.jobs.remote import powershell_command
from smolcluster.jobs.schtasks import FOLDER
from smolcluster.network import gather
from smolcluster.network.actions import actions_of
from smolcluster.network.diff import plan_network

from .clusters import CHAIN
from .homes import bare, situation

ROOT = Path(__file__).parents[2]
FILES = sorted([*ROOT.glob("roles/*/files/*.ps1"), *ROOT.glob("playbooks/**/*.ps*1")])
LANGUAGE = Language(tree_sitter_powershell.language())


def errors(text: str) -> list[str]:
    """Where the grammar does not fit, by line."""
    found, nodes = [], [Parser(LANGUAGE).parse(text.encode()).root_node]
    while nodes:
        node: Node = nodes.pop()
        if node.is_error or node.is_missing:
            found.append(f"line {node.start_point[0] + 1}: {text.encode()[node.start_byte : node.end_byte][:60]!r}")
        nodes += node.children
    return found


def test_the_grammar_tells_good_from_bad() -> None:
    assert not errors("if (Test-Path 'x') { Get-Item 'x' }\n")
    assert errors("if (Test-Path 'x' { Get-Item 'x' }\n")
    assert errors("foreach ($a in $b { }\n")
    assert errors("New-NetRoute -NextHop '10.0.0.1\n")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_every_file(file: Path) -> None:
    assert not errors(file.read_text(encoding="utf-8"))


def test_the_files_are_there() -> None:
    assert [file.relative_to(ROOT).as_posix() for file in FILES] == [
        "playbooks/library_windows/smolcluster_boot.ps1",
        "playbooks/library_windows/smolcluster_job.ps1",
        "playbooks/library_windows/smolcluster_runs.ps1",
        "playbooks/library_windows/smolcluster_tree.ps1",
        "playbooks/module_utils/Ansible.ModuleUtils.Smolcluster.psm1",
        "roles/boot_service/files/remove.ps1",
        "roles/certificates/files/certificate.ps1",
        "roles/firewall/files/firewall.ps1",
        "roles/network_apply/files/carry_out.ps1",
        "roles/network_gather/files/gather.ps1",
        "roles/network_probe/files/ping.ps1",
        "roles/runtime/files/node.ps1",
    ]


def commands(text: str) -> list[str]:
    """Each command with its arguments, in the order in which they stand."""
    found, nodes = [], [Parser(LANGUAGE).parse(text.encode()).root_node]
    while nodes:
        node: Node = nodes.pop()
        if node.type == "command":
            found.append(text.encode()[node.start_byte : node.end_byte].decode())
        nodes += reversed(node.children)
    return found


def test_a_task_at_boot_is_looked_for_in_its_folder_and_its_note_goes_last() -> None:
    """The note has the task's name with its folder, which the scheduler's cmdlets take apart: TaskName is the leaf."""
    text = (ROOT / "roles/boot_service/files/remove.ps1").read_text(encoding="utf-8")
    asked = [command for command in commands(text) if "ScheduledTask" in command.split()[0]]
    assert [command.split()[:2] for command in asked] == [
        ["Get-ScheduledTask", "@at"],
        ["Stop-ScheduledTask", "@at"],
        ["Unregister-ScheduledTask", "@at"],
    ]
    assert f"$at = @{{ TaskPath = '{FOLDER}'; TaskName = Split-Path $boot.name -Leaf }}" in text
    assert not any("-TaskName" in command for command in asked)
    assert commands(text)[-1] == "Remove-Item -Force $note"


def test_what_sets_up_a_windows_pc_leaves_nothing_beside_its_folder() -> None:
    """The words alone: no registry and no scheduler is here."""
    text = (ROOT / "roles" / "runtime" / "files" / "node.ps1").read_text(encoding="utf-8")
    functions = dict(re.findall(r"^function ([\w-]+)[^\n]*\n(.*?)^}$", text, re.MULTILINE | re.DOTALL))
    verbs = dict(re.findall(r"^    '(\w+)' \{\n(.*?)^    }$", text, re.MULTILINE | re.DOTALL))
    got, asked = verbs["python"].split("Invoke-Program", 1)
    assert "$env:UV_PYTHON_INSTALL_REGISTRY = '0'" in got
    assert "python', 'install'" in asked
    assert re.findall(r"(?:Stop|Unregister)-ScheduledTask", functions["Remove-Task"]) == [
        "Stop-ScheduledTask",
        "Unregister-ScheduledTask",
    ], "a task's open files go before the folder"
    # Only what lies under our folder: somebody's own uv writes down its Pythons there, too.
    taken = functions["Remove-Registration"]
    assert "HKCU:\\Software\\Python\\Astral" in taken
    assert taken.index('"$base\\python"') < taken.index(".StartsWith($ours") < taken.index("Remove-Item")
    assert verbs["remove"].index("Remove-Registration") < verbs["remove"].index("Get-Left")


def test_the_command_that_follows_a_node() -> None:
    assert not errors(powershell_command("~\\venv\\python.exe", ["-m", "it's", "C:\\a b"]))


def test_every_step_of_a_windows_plan_and_its_way_back() -> None:
    (plan,) = (plan for plan in plan_network(situation(bare(CHAIN))) if plan.os == "windows")
    lines = [action.argv[-1] for step in (*plan.steps, *plan.rollback()) for action in actions_of(step)]
    assert len(lines) > 2
    assert [line for line in lines if errors(line)] == []


def test_every_question() -> None:
    for command in gather.first_commands("windows"):
        # gather.ps1 takes this off, and runs the rest.
        assert gather.key(command).startswith("powershell.exe -NoProfile -NonInteractive -Command ")
        assert not errors(command[-1])
