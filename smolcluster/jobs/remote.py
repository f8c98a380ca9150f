"""The command line that asks a node's own smolcluster, in the words of the shell that is there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

# As Ansible's own commands for PowerShell do: what a program writes would otherwise be read in a code page.
_UTF8 = "try { [Console]::OutputEncoding = New-Object System.Text.UTF8Encoding } catch {}"


def posix_command(python: str, arguments: Sequence[str]) -> str:
    """For sh. The interpreter may start with ~, which the shell puts the home in for, so it is quoted from there on."""
    home, slash, rest = python.partition("/") if python.startswith("~") else ("", "", python)
    return f"{home}{slash}{shlex.quote(rest)} {shlex.join(arguments)}"


def powershell_command(python: str, arguments: Sequence[str]) -> str:
    """For PowerShell 5.1 and newer; it ends with the program's exit code. Not tried on a real Windows PC."""
    if python.startswith("~"):
        program = f"([Environment]::GetFolderPath('UserProfile') + {_quoted(python[1:])})"
    else:
        program = _quoted(python)
    words = " ".join(_quoted(word) for word in arguments)
    return f"{_UTF8}\n& {program} {words}\nexit $LASTEXITCODE\n"


def _quoted(text: str) -> str:
    """A word as it stands. PowerShell takes typographic quotes for single quotes too."""
    return "'" + re.sub("(['\u2018\u2019\u201a\u201b])", r"\1\1", text) + "'"
