"""Machines for the tests: what node.py would say of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smolcluster.provision.facts import Found, Interpreter

_SYSTEMS = {
    "macos": ("darwin", "Darwin", "arm64"),
    "pi": ("linux", "Linux", "aarch64"),
    "pc": ("linux", "Linux", "x86_64"),
    "windows": ("win32", "Windows", "AMD64"),
}


def interpreter(kind: str, version: tuple[int, int, int] = (3, 11, 2), **more: Any) -> Interpreter:
    """A Python of a machine of that kind."""
    platform, system, machine = _SYSTEMS[kind]
    markers = {
        "implementation_name": "cpython", "implementation_version": "3.11.2", "os_name": "posix",
        "platform_machine": machine, "platform_release": "", "platform_system": system, "platform_version": "",
        "python_full_version": ".".join(map(str, version)), "platform_python_implementation": "CPython",
        "python_version": f"{version[0]}.{version[1]}", "sys_platform": platform,
    }  # fmt: skip
    given = {
        "python": f"/usr/bin/python{version[0]}.{version[1]}",
        "version": version,
        "venv": True,
        "pip": True,
        "markers": markers,
        "libc": ("glibc", "2.36") if platform == "linux" else ("", ""),
        "macos": "15.5" if platform == "darwin" else "",
    }
    return Interpreter.model_validate({**given, **more})


def found(*interpreters: Interpreter, **more: Any) -> Found:
    """A machine with these interpreters and nothing of ours."""
    given = {"schema": 1, "root": "/home/pi/.smolcluster", "interpreters": interpreters, "note": {}, "wheels": {}}
    given |= {"cuda": False, "jetson": False, "debian": True, "free_mb": 50_000}
    return Found.model_validate({**given, **more})


def touch_wheels(folder: Path, needs: dict[str, list[str]]) -> Path:
    """Wheels by their names' first and last parts -> what they need."""
    from zipfile import ZipFile

    folder.mkdir(parents=True, exist_ok=True)
    for stem, lines in needs.items():
        name, version, *_ = stem.split("-")
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        with ZipFile(folder / f"{stem}.whl", "w") as archive:
            archive.writestr(
                f"{name}-{version}.dist-info/METADATA", text + "".join(f"Requires-Dist: {x}\n" for x in lines)
            )
    return folder
