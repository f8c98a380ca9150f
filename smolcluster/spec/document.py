"""YAML text -> a tree of plain values that still knows which line every key stands on.

PyYAML follows YAML 1.1, where `6e-4` is text, `4:8` is 248 and `no` is false. Here scalars are what people mean:
numbers with an exponent are numbers, only true and false are booleans, and nothing else is special. A key given twice
is an error.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from smolcluster.errors import ConfigError, Problem

KeyPath = tuple[str | int, ...]
Tree = dict[str, Any]

_ESCAPED = re.compile(r"""^\\+(["'])(?P<inner>.*?)\\*\1$""")
_NULL = "tag:yaml.org,2002:null"
_RESOLVERS: tuple[tuple[str, str, str], ...] = (
    ("tag:yaml.org,2002:bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("tag:yaml.org,2002:int", r"^[-+]?[0-9][0-9_]*$", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"^[-+]?(?:[0-9][0-9_]*\.?[0-9]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?|\.inf|\.nan)$",
        "-+0123456789.",
    ),
    (_NULL, r"^(?:~|null|Null|NULL|)$", "~nN"),
)


class _Loader(yaml.SafeLoader):
    """SafeLoader's syntax with the four scalar rules above and none of YAML 1.1's others."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own shape


for _tag, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), [*_first, ""] if _tag == _NULL else list(_first))


@dataclass(frozen=True)
class Document:
    """One file, a section of it, or a flag. `lines` has a line for every key path, `notes` what was cleaned.

    `prefix` is where the section stands in its file, for messages.
    """

    file: str
    data: Tree
    lines: dict[KeyPath, int]
    sha256: str = ""
    notes: tuple[str, ...] = field(default=())
    prefix: KeyPath = ()

    def line(self, path: KeyPath) -> int:
        """Line of the key, or of the nearest key above it that has one; 0 when there is none."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                return self.lines[path[:end]]
        return 0

    def problem(self, path: KeyPath, what: str, fix: str = "") -> Problem:
        """A Problem at that key of this file."""
        return Problem(self.file, self.line(path), dotted((*self.prefix, *path)), what, fix)

    def note(self, path: KeyPath, said: object, taken: str, why: str = "") -> str:
        """A note on that key of this file."""
        return note_at(self.file, self.line(path), dotted((*self.prefix, *path)), said, taken, why)

    def section(self, name: str) -> Document:
        """The section below a top-level key, as a document of its own that still knows its lines."""
        lines = {path[1:]: line for path, line in self.lines.items() if path[0] == name and len(path) > 1}
        data = self.data.get(name)
        return replace(
            self, data=data if isinstance(data, dict) else {}, lines=lines, notes=(), prefix=(*self.prefix, name)
        )

    def only(self, keys: Collection[str]) -> Document:
        """The same document with those top-level keys alone."""
        data = {key: value for key, value in self.data.items() if key in keys}
        return replace(self, data=data, lines={path: line for path, line in self.lines.items() if path[0] in keys})


def dotted(path: KeyPath) -> str:
    """The key as a person writes it: `allToAllTopology.workers.regular[0].ip`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def note_at(file: str, line: int, key: str, said: object, taken: str, why: str = "") -> str:
    """The text of a note: which key, what it said, what was taken."""
    where = f"{file}:{line}" if line else file
    return f"{where}: {key}: said {said}, taken: {taken}" + (f" ({why})" if why else "")


def read_document(path: Path, shown: str = "") -> Document:
    """Read a YAML file whose top level is a section. ConfigError when it is missing, not YAML or something else."""
    name = shown or display(path)
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError([Problem(name, 0, "", "there is no such file", "check the path")]) from None
    except IsADirectoryError:
        raise ConfigError([Problem(name, 0, "", "is a folder, not a YAML file", "name a file in it")]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(name, 0, "", f"is not UTF-8 text ({error.reason})", "save it as UTF-8")]) from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError([Problem(name, 0, "", f"cannot be read: {reason}", "check its permissions")]) from None
    return parse_document(text, name, hashlib.sha256(raw).hexdigest())


def parse_document(text: str, file: str, sha256: str = "") -> Document:
    """Parse YAML text whose top level is a section; an empty file is an empty section."""
    builder = _Builder(file)
    value = builder.build(_compose(text, file))
    if value is None:
        value = {}
    if not isinstance(value, dict):
        builder.problems.append(
            Problem(file, 1, "", "must be a section of `key: value` lines", "see the shipped files")
        )
    if builder.problems:
        raise ConfigError(builder.problems)
    return Document(file, value, builder.lines, sha256, tuple(builder.notes))


def parse_value(text: str, file: str) -> Any:
    """The value of one piece of YAML: `16`, `3e-4`, `[a, b]`, `{a: 1}`, `null`, or plain text."""
    builder = _Builder(file)
    value = builder.build(_compose(text, file))
    if builder.problems:
        raise ConfigError(builder.problems)
    return value


def display(path: Path) -> str:
    """How a file is called in messages: from the current folder when it lies below it, else as given."""
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        return path.relative_to(Path.cwd()).as_posix()
    return path.as_posix()


def _compose(text: str, file: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        fix = (
            "indent with spaces, not tabs" if "\\t" in (error.problem or "") else "check indentation, quotes and colons"
        )
        raise ConfigError(
            [Problem(file, line, "", f"is not valid YAML: {error.problem or error.context}", fix)]
        ) from None
    except yaml.YAMLError as error:
        text = str(error).splitlines()[0]
        raise ConfigError([Problem(file, 0, "", f"is not valid YAML: {text}", "save it as plain UTF-8 text")]) from None


class _Builder:
    """Walks PyYAML's node tree once; collects lines, notes and duplicate keys."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[KeyPath, int] = {}
        self.notes: list[str] = []
        self.problems: list[Problem] = []

    def build(self, node: yaml.Node | None, path: KeyPath = (), above: tuple[int, ...] = ()) -> Any:
        if node is None:
            return None
        if id(node) in above:  # an alias that contains itself
            line = node.start_mark.line + 1
            self.problems.append(Problem(self.file, line, dotted(path), "refers to itself", "write the value out"))
            return None
        inside = (*above, id(node))
        if isinstance(node, yaml.MappingNode):
            return self._section(node, path, inside)
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self.lines[(*path, index)] = item.start_mark.line + 1
            return [self.build(item, (*path, index), inside) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _section(self, node: yaml.MappingNode, path: KeyPath, inside: tuple[int, ...]) -> Tree:
        section: Tree = {}
        first_line: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else str(key_node.start_mark)
            here = (*path, key)
            if not isinstance(key_node, yaml.ScalarNode):
                what = "a key must be plain text, not a list or a section"
                self.problems.append(Problem(self.file, line, dotted(path), what, "put quotes around it"))
            elif key in first_line:
                what = f"is given twice, first on line {first_line[key]}"
                self.problems.append(Problem(self.file, line, dotted(here), what, "keep one of the two"))
            else:
                first_line[key] = line
                self.lines[here] = line
                section[key] = self.build(value_node, here, inside)
        return section

    def _scalar(self, node: yaml.Node, path: KeyPath) -> Any:
        text: str = node.value
        kind = node.tag.rsplit(":", 1)[-1]
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "int":
            return int(text.replace("_", ""))
        if kind == "float":
            return float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
        if kind != "str":
            what = f"has the YAML tag {node.tag}, which is not used here"
            self.problems.append(
                Problem(self.file, node.start_mark.line + 1, dotted(path), what, "write a plain value")
            )
            return None
        escaped = _ESCAPED.match(text)
        if isinstance(node, yaml.ScalarNode) and node.style is None and escaped:
            inner = escaped["inner"]
            line = node.start_mark.line + 1
            self.notes.append(note_at(self.file, line, dotted(path), text, inner, "quotes and backslashes come off"))
            return inner
        return text
