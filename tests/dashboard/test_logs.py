"""The logs of all machines as one: merged by time, paged to both sides, filtered, read on as they grow."""

from __future__ import annotations

import datetime
import os
import random
from pathlib import Path

import pytest

from smolcluster.chat.backend.refusals import ApiError
from smolcluster.dashboard import logs
from smolcluster.dashboard.logs import Source, Wanted, page

TEN = 1795946400.0
ALL = Wanted()


def stamp(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(TEN + seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def sources_in(folder: Path, **texts: str) -> list[Source]:
    """A log for each name; as old as if nobody wrote on."""
    sources = []
    for rank, (node, text) in enumerate(texts.items()):
        path = folder / f"{node}.txt"
        path.write_text(text)
        os.utime(path, (TEN, TEN))
        sources.append(Source(node, rank, path))
    return sources


def texts(answer) -> list[str]:
    return [line.text for line in answer.lines]


def test_pages_to_both_sides_are_the_whole(tmp_path: Path) -> None:
    dice = random.Random(3)
    lines, expected = {"a": [], "b": [], "c": []}, []
    for number in range(600):
        node, when = dice.choice("abc"), number // 3
        lines[node].append(f"{stamp(when)} INFO line {number}")
        expected.append((when, "abc".index(node), number))
    # Of the same second, those of a node stay together, in the order of nodes.
    wanted = [f"line {number}" for _, _, number in sorted(expected)]
    sources = sources_in(tmp_path, **{node: "\n".join(found) + "\n" for node, found in lines.items()})
    last = page(sources, "", "", ALL, 50)
    assert (texts(last), last.older, last.newer) == (wanted[-50:], True, False)
    backwards, found = last, texts(last)
    while backwards.older:
        backwards = page(sources, backwards.before, "", ALL, 47)
        found = texts(backwards) + found
    assert found == wanted
    assert page(sources, backwards.before, "", ALL, 10).lines == []
    forwards, found = page(sources, "", backwards.before, ALL, 41), []
    while True:
        found += texts(forwards)
        if not forwards.newer:
            break
        forwards = page(sources, "", forwards.after, ALL, 41)
    assert found == wanted
    assert len({line.id for line in last.lines}) == 50


def test_clocks_filters_and_what_has_no_time(tmp_path: Path) -> None:
    trace = "Traceback (most recent call last):\n  File x\nValueError: Oops\n"
    sources = sources_in(
        tmp_path,
        mini=f"{stamp(0)} INFO begin\n{stamp(3)} ERROR broke\n{trace}{stamp(5)} INFO end\n",
        pi=f"{stamp(101)} WARNING slow\n",
    )
    sources[1] = Source("pi", 1, sources[1].path, ahead_s=100.0)
    merged = page(sources, "", "", ALL, 100)
    assert [(line.node, line.level, line.text, line.time - TEN) for line in merged.lines if line.time] == [
        ("mini", "INFO", "begin", 0), ("pi", "WARNING", "slow", 1), ("mini", "ERROR", "broke", 3),
        ("mini", None, "Traceback (most recent call last):", 3), ("mini", None, "  File x", 3),
        ("mini", None, "ValueError: Oops", 3), ("mini", "INFO", "end", 5),
    ]  # fmt: skip
    assert texts(page(sources, "", "", Wanted(level="ERROR"), 100)) == ["broke", *trace.splitlines()]
    assert texts(page(sources, "", "", Wanted(level="WARNING", node="pi"), 100)) == ["slow"]
    assert texts(page(sources, "", "", Wanted(contains="oOPS"), 100)) == ["ValueError: Oops"]
    assert texts(page(sources, "", "", Wanted(rank=1), 100)) == ["slow"]
    # A page that begins within a traceback knows when that was, and how loud.
    inside = page(sources, page(sources, "", "", ALL, 2).before, "", Wanted(level="ERROR"), 1)
    assert [(line.text, line.time) for line in inside.lines] == [("  File x", TEN + 3)]
    on = page(sources, "", page(sources, inside.before, "", ALL, 1).after, Wanted(level="ERROR"), 1)
    assert [(line.text, line.time) for line in on.lines] == [("  File x", TEN + 3)]


def test_a_log_that_grows_and_one_that_is_another(tmp_path: Path) -> None:
    sources = sources_in(tmp_path, mini=f"{stamp(0)} INFO one\n")
    path = sources[0].path
    last = page(sources, "", "", ALL, 10)
    with path.open("a") as file:
        file.write(f"{stamp(1)} INFO two\n\n\n{stamp(2)} INFO thr")
    more = page(sources, "", last.after, ALL, 10)
    assert (texts(more), more.newer) == (["two"], False)
    assert texts(page(sources, "", more.after, ALL, 10)) == []
    with path.open("a") as file:
        file.write("ee\n")
    rest = page(sources, "", more.after, ALL, 10)
    assert texts(rest) == ["three"]
    # Nobody goes on with a last line that is old.
    with path.open("a") as file:
        file.write(f"{stamp(4)} INFO killed in the mid")
    os.utime(path, (TEN, TEN))
    torn = page(sources, "", rest.after, ALL, 10)
    assert texts(torn) == ["killed in the mid"]
    assert page(sources, "", torn.after, ALL, 10).after == torn.after
    path.write_text(f"{stamp(9)} INFO anew\n")
    assert texts(page(sources, "", torn.after, ALL, 10)) == ["anew"]
    path.unlink()
    assert texts(page(sources, "", torn.after, ALL, 10)) == []


def test_what_a_terminal_shows(tmp_path: Path) -> None:
    [source] = sources_in(tmp_path, mini="")
    source.path.write_bytes(b"10%\r90%\rdone\r\n\x1b[31mred\x1b[0m\nbad \xff\xfe\0 bytes\n" + b"x" * 5000 + b"\n")
    assert texts(page([source], "", "", ALL, 10)) == ["done", "red", "bad ��� bytes", "x" * 2000]
    # One line that is longer than all that is looked at does not hold up anybody.
    source.path.write_bytes(b"before\n" + b"y" * (logs._CHUNK_BYTES * 6) + b"\nafter\n")
    found, answer = [], page([source], "", "", ALL, 100)
    for _ in range(20):
        found = texts(answer) + found
        if not answer.older:
            break
        answer = page([source], answer.before, "", ALL, 100)
    assert (found[0], found[-1]) == ("before", "after")


def test_a_search_ends_in_time_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MOST_BYTES", 64 << 10)
    monkeypatch.setattr(logs, "_CHUNK_BYTES", 4 << 10)
    body = "".join(f"{stamp(number)} INFO step {number}\n" for number in range(9000))
    sources = sources_in(tmp_path, mini=f"{stamp(-1)} INFO the needle\n{body}")
    answer, pages, found = page(sources, "", "", Wanted(contains="needle"), 10), 1, []
    while answer.older:
        found = texts(answer) + found
        answer, pages = page(sources, answer.before, "", Wanted(contains="needle"), 10), pages + 1
    assert texts(answer) + found == ["the needle"]
    assert pages > 3
    answer, found = page(sources, "", answer.before, Wanted(contains="step 8999"), 10), []
    while answer.newer:
        answer = page(sources, "", answer.after, Wanted(contains="step 8999"), 10)
    assert texts(answer) == ["step 8999"]


@pytest.mark.parametrize(
    "cursor",
    ["x", "AAAA", "e30", "WzFd", "eyJhIjotMX0=", "é", "eyJhIjoieCJ9", "eyJhIjp0cnVlfQ==", "W1tb" * 4000],
    ids=[*map(str, range(8)), "deep"],
)
def test_cursors_that_are_none(tmp_path: Path, cursor: str) -> None:
    sources = sources_in(tmp_path, mini="a line\n")
    with pytest.raises(ApiError) as refused:
        page(sources, cursor, "", ALL, 10)
    assert (refused.value.status_code, refused.value.code, refused.value.param) == (400, "bad_cursor", "before")
