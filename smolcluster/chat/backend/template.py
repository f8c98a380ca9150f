"""The model's own chat template: messages in, the text of a prompt out.

It is a Jinja program out of the model's folder, so it runs in a sandbox, with what transformers gives it: trimmed
blocks, loop controls, raise_exception, strftime_now, a tojson that escapes no HTML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from smolcluster.errors import RequestError

# Text that somebody wrote is rendered a second time as characters of this private plane: see ChatTemplate.render.
_PLANE = 0xF0000
# What templates look for in messages; no model reads it as a special token.
_LOOKED_FOR = re.compile("(</?(?:think|tool_call|tool_response)>)")


@dataclass(frozen=True)
class Prompt:
    """Text to continue. `literal`: the half-open parts of it that somebody wrote; the template wrote the others."""

    text: str
    literal: tuple[tuple[int, int], ...]


class _Generation(Extension):
    """{% generation %} marks an assistant's words for those who train on them; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012  jinja2's own way

    def parse(self, parser: Parser) -> nodes.Node:
        """The body as it is."""
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


class ChatTemplate:
    """RequestError if the template is broken, or refuses the messages."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self._special = dict(special_tokens)
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise RequestError(f"the model's chat template is broken: {error}") from error

    def render(self, messages: Sequence[Mapping[str, str]]) -> Prompt:
        """The prompt up to where the assistant's answer begins.

        Which parts of it are the messages' own is found by rendering once more with each of their characters moved to
        a private plane of Unicode: a template that only copies and trims them gives the same text, moved. One that
        looks into them, or changes them, is asked role by role, then with signs alone: a special token's name has
        some, and changes of case, quotes and such leave them. What still looks otherwise is looked for.
        """
        text = self._text(messages)
        literal = self._moved(messages, None, text, _away)
        if literal is None:
            roles = {message["role"] for message in messages}
            literal = [part for role in roles for part in self._of(role, messages, text)]
        return Prompt(text, _merged(literal))

    def _moved(
        self, messages: Sequence[Mapping[str, str]], role: str | None, text: str, away: Callable[[str], str]
    ) -> list[tuple[int, int]] | None:
        """The parts of `text` that change when messages are moved; None if more changes than that."""
        try:
            return _difference(text, self._text(_move(messages, role, away)))
        except RequestError:  # it wants certain words in there
            return None

    def _of(self, role: str, messages: Sequence[Mapping[str, str]], text: str) -> list[tuple[int, int]]:
        """The parts of `text` that those of this role wrote."""
        for away in (_away, _signs_away):
            if (moved := self._moved(messages, role, text, away)) is not None:
                return moved
        # Wherever they stand: to take the template's words for a message's does no harm, the other way round does.
        contents = {message["content"].strip() for message in messages if message["role"] == role} - {""}
        return [found.span() for content in contents for found in re.finditer(re.escape(content), text)]

    def _text(self, messages: Sequence[Mapping[str, str]]) -> str:
        copies = [dict(message) for message in messages]
        try:
            return self._template.render(
                messages=copies, tools=None, documents=None, add_generation_prompt=True, **self._special
            )
        except Exception as error:  # a template is a program: it can fail in any way
            raise RequestError(f"the model's chat template cannot render these messages: {error}") from error


def plain(messages: Sequence[Mapping[str, str]]) -> Prompt:
    """For a model that only continues texts: the last user's messages. RequestError where there is none."""
    runs = [(role, [one["content"] for one in run]) for role, run in groupby(messages, key=lambda one: one["role"])]
    text = next(("\n".join(contents) for role, contents in reversed(runs) if role == "user"), None)
    if text is None:
        raise RequestError("this model only continues texts: there must be a message of a user's")
    return Prompt(text, ((0, len(text)),))


def _move(
    messages: Sequence[Mapping[str, str]], role: str | None, away: Callable[[str], str]
) -> list[Mapping[str, str]]:
    """The messages of that role, or all, with their characters moved."""
    return [
        {**message, "content": _moved_away(message["content"], away)} if role in (None, message["role"]) else message
        for message in messages
    ]


def _moved_away(content: str, away: Callable[[str], str]) -> str:
    parts = _LOOKED_FOR.split(content)  # every other one is such a word
    return "".join(part if number % 2 else "".join(map(away, part)) for number, part in enumerate(parts))


def _away(character: str) -> str:
    # Space stays, so that trimming does the same; what lies in other planes is in no special token.
    return character if character.isspace() or ord(character) > 0xFFFF else chr(ord(character) + _PLANE)


def _signs_away(character: str) -> str:
    # What is escaped somewhere must stay as it is; no name of a special token is made of that alone.
    return character if character.isalnum() or character in "\"'\\&" else _away(character)


def _difference(text: str, other: str) -> list[tuple[int, int]] | None:
    """The parts of `text` that are moved in `other`; None if the two are not the same otherwise."""
    if len(text) != len(other):
        return None
    parts: list[tuple[int, int]] = []
    for at, (here, there) in enumerate(zip(text, other, strict=True)):
        if here == there:
            continue
        if there != _away(here):
            return None
        if parts and parts[-1][1] == at:
            parts[-1] = (parts[-1][0], at + 1)
        else:
            parts.append((at, at + 1))
    return parts


def _merged(parts: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """In order, and none overlaps another."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(parts):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return tuple(merged)


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
