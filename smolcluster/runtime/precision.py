"""The precision of forward and backward on this rank's device, and whether the device can do it.

torch.autocast decides which operations run in the shorter type (matrix products do, sums and norms of the stream
between blocks do not). Parameters stay float32, and so do their gradients and the optimizer's state: the short copies
live inside an operation.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
from torch.nn import functional

from smolcluster.errors import ConfigError, Problem
from smolcluster.spec.run import Precision

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_NAMES = {"bf16": "bfloat16", "fp16": "float16"}


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """A context for forward and loss; fp32 is nothing at all."""
    if precision == "fp32":
        return contextlib.nullcontext()
    # No cache of short copies: each weight is read once in a pass, and fsdp stage 3 puts other values into a parameter
    # under the cache's feet.
    return torch.autocast(device.type, _DTYPES[precision], cache_enabled=False)


def require_precision(precision: Precision, device: torch.device, node: str) -> None:
    """ConfigError unless this device computes in that precision: it is tried, which no list of devices replaces."""
    if precision == "fp32":
        return
    try:
        weight = torch.ones(8, 8, device=device, requires_grad=True)
        with autocast(precision, device):
            out = functional.gelu(functional.linear(torch.ones(8, 8, device=device), weight))
            good = out.dtype == _DTYPES[precision]
        out.float().sum().backward()
        reason = "" if good else ": torch computes in float32 instead"
    except (RuntimeError, TypeError) as error:  # what torch raises for a type that a device or its driver lacks
        good, reason = False, f": {(str(error).splitlines() or [type(error).__name__])[0]}"
    if good:
        return
    what = f"{node} cannot compute in {_NAMES[precision]} on {device.type} (torch {torch.__version__}){reason}"
    other = "fp16" if precision == "bf16" else "bf16"
    fix = f"use training.precision: {other} or fp32, or give {node} another `device:` in the inventory"
    raise ConfigError([Problem("", 0, "training.precision", what, fix)])
