"""The first login to a bare machine: what a person types there, once, for each system. The one place that says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

System = Literal["macos", "linux", "windows"]


@dataclass(frozen=True)
class Bootstrap:
    """`where` it is typed, the `lines` themselves, and what may stand in the way as (symptom, remedy)."""

    where: str
    lines: tuple[str, ...]
    traps: tuple[tuple[str, str], ...] = ()


_MACOS = Bootstrap(
    where="in Terminal, by an administrator of the Mac",
    lines=("sudo systemsetup -setremotelogin on",),
    traps=(
        (
            '"requires Full Disk Access privileges"',
            "sudo launchctl enable system/com.openssh.sshd && "
            "sudo launchctl bootstrap system /System/Library/LaunchDaemons/ssh.plist; "
            "or System Settings, General, Sharing, Remote Login (allow your user, leave full disk access off)",
        ),
        (
            "the Mac sleeps before it is set up",
            "System Settings, Energy: prevent automatic sleeping until setup.yml is through; runs hold off sleep",
        ),
    ),
)
_LINUX = Bootstrap(
    where="in a terminal, by a user who may use sudo (Raspberry Pi: or tick SSH in Raspberry Pi Imager)",
    lines=("sudo apt-get update && sudo apt-get install -y openssh-server", "sudo systemctl enable --now ssh"),
    traps=(("it is Fedora or the like", "sudo dnf install -y openssh-server && sudo systemctl enable --now sshd"),),
)
# One block: it is pasted as a whole. The capability brings a rule for every network; ours is for the private ones.
_WINDOWS = Bootstrap(
    where="in PowerShell, run as administrator",
    lines=(
        "Add-WindowsCapability -Online -Name (Get-WindowsCapability -Online -Name OpenSSH.Server*)[0].Name",
        "Set-Service -Name sshd -StartupType Automatic; Start-Service sshd",
        "Get-NetFirewallRule -Name OpenSSH-Server-In-TCP -ErrorAction SilentlyContinue | Disable-NetFirewallRule",
        "New-NetFirewallRule -Name smolcluster-ssh -DisplayName 'OpenSSH from the home network' -Direction Inbound "
        "-Protocol TCP -LocalPort 22 -Profile Private -RemoteAddress LocalSubnet -Action Allow",
        "New-ItemProperty -Path HKLM:\\SOFTWARE\\OpenSSH -Name DefaultShell -Force -PropertyType String "
        "-Value (Get-Command powershell.exe).Source",
    ),
    traps=(
        (
            "the PC asks for a password although the key is there",
            "keys of administrators are read from C:\\ProgramData\\ssh\\administrators_authorized_keys, not from the "
            "profile. Paste your public key there, then: icacls C:\\ProgramData\\ssh\\administrators_authorized_keys "
            '/inheritance:r /grant "*S-1-5-32-544:F" /grant "*S-1-5-18:F"',
        ),
        (
            "nothing answers on port 22",
            "the network is public: Get-NetConnectionProfile | Set-NetConnectionProfile -NetworkCategory Private",
        ),
    ),
)
BOOTSTRAPS: Mapping[System, Bootstrap] = {"macos": _MACOS, "linux": _LINUX, "windows": _WINDOWS}
_NEXT = """\
Then, on the machine you call the playbooks on:

    python -m smolcluster enroll USER@HOST
    ansible-playbook -i inventory/home.smol.yml setup.yml -K

-K asks for the password of sudo, once for all machines; where they differ see Ansible Vault in roles/runtime/README.md.
"""


def told(system: System) -> str:
    """Everything a person needs for one system, as text."""
    what = BOOTSTRAPS[system]
    parts = [f"On the machine, {what.where}:", "\n".join(f"    {line}" for line in what.lines)]
    parts += [f"If {symptom}:\n    {remedy}" for symptom, remedy in what.traps]
    return "\n\n".join([*parts, _NEXT])
