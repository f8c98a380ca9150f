"""Steps to commands: argument lists, never a shell. Each file is one OS."""

from __future__ import annotations

from collections.abc import Iterable

from smolcluster.network.actions import linux, macos, windows
from smolcluster.network.steps import Action, Step


def actions_of(step: Step) -> tuple[Action, ...]:
    """The commands (and files) of a step, in order."""
    return {"macos": macos.actions, "linux": linux.actions, "windows": windows.actions}[step.os](step)


def commands_of(steps: Iterable[Step], numbers: Iterable[int]) -> list[dict[str, object]]:
    """Steps as carry_out.py reads them: each command with its step's number, by which it knows how far it came."""
    return [
        {**action.model_dump(), "step": number}
        for step, number in zip(steps, numbers, strict=True)
        for action in actions_of(step)
    ]
