"""What a person pastes on a bare machine: it parses in that system's shell, and leads on to the commands there are."""

from __future__ import annotations

import re
import subprocess

import pytest
from typer.testing import CliRunner

from smolcluster.cli import app_of
from smolcluster.provision.bootstrap import BOOTSTRAPS, System
from tests.network.test_powershell import errors


@pytest.mark.parametrize("system", ["macos", "linux"])
def test_a_unix_shell_takes_the_lines(system: System) -> None:
    text = "\n".join(BOOTSTRAPS[system].lines)
    done = subprocess.run(["sh", "-n"], input=text, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def test_powershell_takes_the_lines_and_opens_the_private_network_alone() -> None:
    lines = BOOTSTRAPS["windows"].lines
    assert [line for line in lines if errors(line)] == []
    (rule,) = [line for line in lines if "New-NetFirewallRule" in line]
    assert "-Profile Private" in rule
    assert "-RemoteAddress LocalSubnet" in rule
    assert any("-StartupType Automatic" in line for line in lines)
    (keys,) = [remedy for _, remedy in BOOTSTRAPS["windows"].traps if "administrators_authorized_keys" in remedy]
    # Names of groups and of the system are translated; their numbers are not.
    assert re.findall(r"/grant \"([^:]+):F\"", keys) == ["*S-1-5-32-544", "*S-1-5-18"]


@pytest.mark.parametrize("system", list(BOOTSTRAPS))
def test_the_command_prints_them_and_what_comes_next(system: System) -> None:
    said = CliRunner().invoke(app_of(), ["bootstrap", system])
    assert said.exit_code == 0
    assert all(f"    {line}\n" in said.output for line in BOOTSTRAPS[system].lines)
    for command in re.findall(r"python -m smolcluster ([a-z]+)", said.output):
        assert CliRunner().invoke(app_of(), [command, "--help"]).exit_code == 0
    assert "setup.yml -K" in said.output


def test_another_system_is_refused() -> None:
    assert CliRunner().invoke(app_of(), ["bootstrap", "amiga"]).exit_code == 2
