"""Which of the two scripts a host gets: what its `uname` says decides, and Git for Windows brings one too."""

from __future__ import annotations

from typing import Any

import pytest

from smolcluster.commands.enrolling import install as module
from smolcluster.commands.enrolling.session import Ran


@pytest.mark.parametrize(
    ("uname", "command"),
    [
        (Ran(0, "Darwin\n", ""), module.posix_command()),
        (Ran(0, "Linux\n", ""), module.posix_command()),
        (Ran(1, "", "'uname' is not recognized"), module.windows_command()),
        (Ran(0, "MINGW64_NT-10.0-22631\n", ""), module.windows_command()),
    ],
)
def test_the_script_is_the_systems_own(monkeypatch: pytest.MonkeyPatch, uname: Ran, command: str) -> None:
    asked: list[tuple[str, str]] = []

    def run(_transport: Any, words: str, given: str = "") -> Ran:
        asked.append((words, given))
        return uname if words == "uname" else Ran(0, "added\n", "")

    monkeypatch.setattr(module, "run", run)
    assert module.install(None, "ssh-ed25519 AAAA me@here")  # type: ignore[arg-type]
    assert asked == [("uname", ""), (command, "ssh-ed25519 AAAA me@here\n")]
