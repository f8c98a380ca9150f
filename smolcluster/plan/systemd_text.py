"""How systemd reads a path in a unit file."""

from __future__ import annotations


def systemd_path(text: str) -> str:
    """A path as a setting's whole value: % means itself, a leading ~ the user's home. Spaces need no quotes there."""
    escaped = text.replace("%", "%%")
    return "%h" + escaped[1:] if escaped.startswith("~/") else escaped


def systemd_word(text: str) -> str:
    """A path as one word of a command line."""
    escaped = systemd_path(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if any(mark in text for mark in " \t\"'") else escaped
