"""ping(8) of macOS, whose options mean other things than Linux's: -W is milliseconds, -t seconds in all, -m the TTL."""

from __future__ import annotations

import subprocess

from .told import unknown

_LINUX = "/opt/lab-bin/ping"
_WITH_VALUE = {"-c": "-c", "-i": "-i", "-s": "-s", "-S": "-I", "-m": "-t", "-t": "-w", "-W": "-W"}
_ALONE = {"-n": ["-n"], "-q": ["-q"], "-o": ["-c", "1"], "-D": ["-M", "do"]}


def main(arguments: list[str]) -> int:
    """One call. Exit codes: 0 an answer, 2 none, as macOS's."""
    words: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word[:2] in _WITH_VALUE and len(word) > 2:
            # -c1 is -c 1.
            word, rest = word[:2], [word[2:], *rest]
        if word in _WITH_VALUE and rest:
            value = rest.pop(0)
            words += [_WITH_VALUE[word], str(int(value) / 1000) if word == "-W" else value]
        elif word in _ALONE:
            words += _ALONE[word]
        elif word.startswith("-"):
            raise unknown("ping", word)
        else:
            words.append(word)
    code = subprocess.run([_LINUX, *words], check=False).returncode
    return 2 if code == 1 else code
