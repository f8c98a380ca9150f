"""documentation/tablet.md says what the code does."""

import re
from pathlib import Path

from smolcluster.tablet import messages
from smolcluster.tablet.messages import Assign, Code, Hello, Kind, Ready

PAGE = (Path(__file__).resolve().parents[2] / "documentation" / "tablet.md").read_text(encoding="utf-8")


def test_every_kind_and_every_code_is_on_the_page():
    rows = {(int(number), name) for number, name in re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", PAGE, flags=re.M)}
    assert rows == {(one.value, one.name) for one in (*Kind, *Code)}


def test_the_keys_of_every_json_message_are_on_the_page():
    written = set(re.findall(r"JSON `\{([^}]+)\}`", PAGE))
    assert written == {",".join(f'"{key}"' for key in sorted(one.model_fields)) for one in (Hello, Assign, Ready)}


def test_the_limits_and_the_version_are_the_codes():
    assert f"The protocol, version {messages.VERSION}" in PAGE
    assert (messages.MOST_SMALL, messages.MOST_BYTES, messages.MOST_PIECE) == (16 << 10, 64 << 20, 1 << 20)
    assert "at most 16 KiB, hidden states 64 MiB, pieces 1 MiB" in PAGE
    assert messages.MOST_LISTING == 1 << 20
    assert "listing, at most 1 MiB" in PAGE


def test_which_codes_end_a_session_and_which_the_connection():
    ends = dict(re.findall(r"^\| \d+ \| ([A-Z_]+) \| the (session|connection) \|", PAGE, flags=re.M))
    assert ends == {code.name: "session" if code.of_session else "connection" for code in Code}
