"""torch.compile, and whether this machine can: its CPU code is C++ that the machine's own compiler builds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import torch

from smolcluster.errors import ConfigError, Problem

Function = TypeVar("Function", bound=Callable[..., object])
_INSTALL = "apt install g++ python3-dev, on macOS xcode-select --install, on Windows Visual Studio's build tools"


def compiled(function: Function) -> Function:
    """The function, compiled when it is first called. It compiles in this process: no other may outlive it."""
    return cast(Function, torch.compile(function, options={"compile_threads": 1}))


def require_compiler(device: torch.device, node: str) -> None:
    """ConfigError unless a small function can be compiled and run on the device. Seconds, when it is the first time."""
    try:
        compiled(_probe)(torch.ones(8, device=device))
    except (RuntimeError, ImportError, OSError) as error:  # TorchDynamoException is a RuntimeError
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        what = f"torch.compile does not work on {node}'s {device.type}: {lines[0].strip()}"
        fix = f"install a compiler there ({_INSTALL}), or leave training.compile false"
        raise ConfigError([Problem("", 0, "training.compile", what, fix)]) from error


def _probe(x: torch.Tensor) -> torch.Tensor:
    return x * 2 + 1
