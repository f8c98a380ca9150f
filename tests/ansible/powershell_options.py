"""The options that a PowerShell module declares, read off its script."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_OPTION = re.compile(r"^        (\w+) = @\{ (.*) \}$", re.MULTILINE)
_NEED = re.compile(r"^        , @\('(\w+)', '(\w+)', @\((.*)\)\)$", re.MULTILINE)
_WORDS = re.compile(r"'([^']*)'")


@dataclass(frozen=True)
class Options:
    """As in Python's argument_spec and required_if."""

    spec: dict[str, dict[str, Any]]
    needs: list[tuple[str, str, list[str]]]

    def problem(self, given: Mapping[str, Any]) -> str:
        """What Ansible.Basic would refuse; empty where nothing."""
        if unknown := set(given) - set(self.spec):
            return f"Unsupported parameters: {', '.join(sorted(unknown))}"
        for name, option in self.spec.items():
            if option.get("required") and given.get(name) is None:
                return f"missing required arguments: {name}"
            if "choices" in option and given.get(name) is not None and given[name] not in option["choices"]:
                return f"value of {name} must be one of: {', '.join(option['choices'])}"
        for name, value, wanted in self.needs:
            missing = [each for each in wanted if given.get(each) is None]
            if given.get(name) == value and missing:
                return f"{name} is {value} but all of the following are missing: {', '.join(missing)}"
        return ""

    def filled(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """With defaults, and without what has no value."""
        values = {name: given.get(name, option.get("default")) for name, option in self.spec.items()}
        kept = {name: value for name, value in values.items() if value is not None}
        for name, option in self.spec.items():
            if name in kept and option["type"] == "bool":
                kept[name] = str(kept[name]).lower() in ("true", "yes", "1")
            if name in kept and option["type"] == "int":
                kept[name] = int(kept[name])
        return kept


def options_of(script: str) -> Options:
    """Of a script in the form that ours have: an option a line."""
    spec = {name: dict(map(_field, fields.split("; "))) for name, fields in _OPTION.findall(script)}
    return Options(spec, [(name, value, _WORDS.findall(wanted)) for name, value, wanted in _NEED.findall(script)])


def _field(text: str) -> tuple[str, Any]:
    name, _, value = text.partition(" = ")
    if value.startswith("@("):
        return name, _WORDS.findall(value)
    return name, int(value) if value.isdecimal() else {"$true": True, "$false": False}.get(value, value.strip("'"))
