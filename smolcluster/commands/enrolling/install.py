"""Putting a public key into the remote authorized_keys, once, with the permissions sshd insists on.

The key travels on stdin, so nothing of it is quoted into a shell. Each script prints `added` or `present`.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from smolcluster.commands.enrolling.session import run
from smolcluster.commands.enrolling.types import EnrollError

if TYPE_CHECKING:
    import paramiko

# sshd ignores the file when somebody else could have written it. The comment at a key's end is not part of it, so it is
# looked for by type and key. SELinux wants the label of a file in a home folder.
_POSIX = r"""
umask 077
read -r kind key comment || exit 2
mkdir -p "$HOME/.ssh" && chmod 700 "$HOME/.ssh" || exit 3
file=$HOME/.ssh/authorized_keys
touch "$file" && chmod 600 "$file" || exit 3
if grep -v "^[[:space:]]*#" "$file" | grep -qF "$kind $key"; then echo present; exit 0; fi
if [ -s "$file" ] && [ -n "$(tail -c 1 "$file")" ]; then echo >> "$file" || exit 3; fi
printf "%s %s %s\n" "$kind" "$key" "$comment" >> "$file" || exit 3
if [ -x /sbin/restorecon ]; then /sbin/restorecon -F "$HOME/.ssh" "$file" || true; fi
echo added
"""

# Windows' sshd reads another file for administrators, and that one only when nobody but SYSTEM and they may write it.
# Groups are named by their SIDs: their names are translated. Untested: no Windows here.
_WINDOWS = r"""
$ErrorActionPreference = 'Stop'
$line = [Console]::In.ReadLine()
$key = $line.Split(' ')[1]
$me = New-Object Security.Principal.WindowsPrincipal([Security.Principal.WindowsIdentity]::GetCurrent())
$admin = $me.IsInRole([Security.Principal.WindowsBuiltInRole]::Administrator)
$folder = if ($admin) { Join-Path $env:ProgramData 'ssh' } else { Join-Path $env:USERPROFILE '.ssh' }
$file = Join-Path $folder $(if ($admin) { 'administrators_authorized_keys' } else { 'authorized_keys' })
New-Item -ItemType Directory -Force -Path $folder | Out-Null
$old = if (Test-Path $file) { @(Get-Content $file) } else { @() }
if ($old | Where-Object { $_ -notmatch '^\s*#' -and $_.Contains($key) }) { 'present'; exit 0 }
[IO.File]::WriteAllLines($file, [string[]]($old + $line))
if ($admin) { icacls $file /inheritance:r /grant '*S-1-5-32-544:F' /grant '*S-1-5-18:F' | Out-Null }
'added'
"""

# What Git for Windows says for `uname`, where it is in the PATH: not of the system, and its sh is nobody's login.
_OF_GIT = ("MINGW", "MSYS", "CYGWIN")


def install(transport: paramiko.Transport, public_line: str) -> bool:
    """Add the key on a connection that is logged in; False if it was there. EnrollError with the remote words."""
    asked = run(transport, "uname")
    windows = asked.code != 0 or asked.output.startswith(_OF_GIT)
    ran = run(transport, windows_command() if windows else posix_command(), public_line + "\n")
    said = ran.output.split()
    if ran.code != 0 or not said or said[-1] not in ("added", "present"):
        words = ran.errors.strip() or ran.output.strip() or f"exit code {ran.code}"
        raise EnrollError(f"logged in, but the key could not be added to authorized_keys: {words}")
    return said[-1] == "added"


def posix_command() -> str:
    """The command line for macOS and Linux. In sh, whatever the person's own shell is (fish reads no POSIX)."""
    assert "'" not in _POSIX
    return f"exec sh -c '{_POSIX}'"


def windows_command() -> str:
    """The command line for Windows, the same from cmd and PowerShell, whichever sshd starts there."""
    encoded = base64.b64encode(_WINDOWS.encode("utf-16-le")).decode()
    return f"powershell -NoProfile -NonInteractive -EncodedCommand {encoded}"
