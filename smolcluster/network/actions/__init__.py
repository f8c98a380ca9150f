"""Steps to commands: argument lists, never a shell. Each file is one OS."""

from __future__ import annotations

from smolcluster.network.actions import linux, macos, windows
from smolcluster.network.steps import Action, Step


def actions_of(step: Step) -> tuple[Action, ...]:
    """The commands (and files) of a step, in order."""
    return {"macos": macos.actions, "linux": linux.actions, "windows": windows.actions}[step.os](step)
