"""This machine and what is installed on it, as about.json of a bundle tells it."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from contextlib import suppress

import psutil

from smolcluster import __version__
from smolcluster.doctor.look import processor

ABOUT_SCHEMA = 1
_PACKAGES = (
    "torch",
    "numpy",
    "pydantic",
    "transformers",
    "safetensors",
    "ansible-core",
    "fastapi",
    "uvicorn",
    "psutil",
)


def about() -> dict[str, object]:
    """When, versions, system, processor, cores, and memory in MiB."""
    versions: dict[str, str] = {}
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "schema": ABOUT_SCHEMA,
        "made": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
        "smolcluster": __version__,
        "python": platform.python_version(),
        "packages": versions,
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "processor": processor(),
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
        "memory_mb": psutil.virtual_memory().total >> 20,
    }
