"""The command line that asks a node, for sh and for PowerShell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from smolcluster.jobs.remote import posix_command, powershell_command


def test_sh_gets_every_word_as_it_is(tmp_path: Path) -> None:
    python = tmp_path / "my venv" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    words = ["-c", "import sys; print(sys.argv[1:])", "a b", "it's", "$HOME", ""]
    for given in (str(python), "~/my venv/python"):
        command = posix_command(given, words)
        done = subprocess.run(
            ["sh", "-c", command], capture_output=True, text=True, check=True, timeout=60,
            env={**os.environ, "HOME": str(tmp_path)},
        )  # fmt: skip
        assert done.stdout.strip() == str(words[2:])


def test_powershell_gets_them_in_single_quotes() -> None:
    command = powershell_command("~\\.smolcluster\\venv\\Scripts\\python.exe", ["-m", "it's", "C:\\a b", "\u2019"])
    assert command.splitlines()[1:] == [
        "& ([Environment]::GetFolderPath('UserProfile') + '\\.smolcluster\\venv\\Scripts\\python.exe')"
        " '-m' 'it''s' 'C:\\a b' '\u2019\u2019'",
        "exit $LASTEXITCODE",
    ]
    assert "& 'C:\\py\\python.exe' '-m'\n" in powershell_command("C:\\py\\python.exe", ["-m"])
