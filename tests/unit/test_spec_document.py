"""YAML as people mean it, with lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from smolcluster.errors import ConfigError
from smolcluster.spec.document import dotted, parse_document, parse_value, read_document


def complaint(text: str) -> str:
    with pytest.raises(ConfigError) as refused:
        parse_document(text, "f.yaml")
    (problem,) = refused.value.problems
    return str(problem)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("6e-4", 6e-4),
        ("6.0e-4", 6e-4),
        ("1E3", 1000.0),
        ("-.5", -0.5),
        ("16", 16),
        ("1_000", 1000),
        ("0:4", "0:4"),
        ("4:8", "4:8"),
        ("10.10.0.1", "10.10.0.1"),
        ("no", "no"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("2026-11-22", "2026-11-22"),
        ('"16"', "16"),
        ("1.2.3", "1.2.3"),
        ("e5", "e5"),
        ("bpe:2048", "bpe:2048"),
        ("[a, 1]", ["a", 1]),
        ("{a: 1}", {"a": 1}),
    ],
)
def test_scalars(text: str, value: object) -> None:
    found = parse_value(text, "f")
    assert found == value
    assert type(found) is type(value)


def test_lines_of_every_key() -> None:
    document = parse_document("a:\n  b: 1\n\n  c:\n    - x: 1\n    - x: 2\n", "f.yaml")
    assert [document.line(path) for path in (("a",), ("a", "b"), ("a", "c", 0, "x"), ("a", "c", 1, "x"))] == [
        1,
        2,
        5,
        6,
    ]
    # A key that is not there stands where its section does.
    assert document.line(("a", "c", 1, "y")) == 6
    assert document.line(("nothing",)) == 0
    assert dotted(("a", "c", 1, "x")) == "a.c[1].x"


def test_escaped_quotes_come_off_with_a_note() -> None:
    document = parse_document('a: 1\nip: \\"10.10.0.1\\"\nplain: "10.10.0.1"\n', "f.yaml")
    assert document.data == {"a": 1, "ip": "10.10.0.1", "plain": "10.10.0.1"}
    assert document.notes == ('f.yaml:2: ip: said \\"10.10.0.1\\", taken: 10.10.0.1 (quotes and backslashes come off)',)


def test_a_section_keeps_its_lines_and_its_place() -> None:
    section = parse_document("x: 1\ndefaults:\n  port: 0\n", "f.yaml").section("defaults")
    assert section.data == {"port": 0}
    assert str(section.problem(("port",), "wrong")) == "f.yaml:3: defaults.port: wrong"


def test_keys_given_twice_are_all_reported() -> None:
    with pytest.raises(ConfigError) as refused:
        parse_document("a: 1\nb: {c: 1, c: 2}\na: 2\n", "f.yaml")
    assert [(p.line, p.key) for p in refused.value.problems] == [(2, "b.c"), (3, "a")]


def test_what_is_no_section() -> None:
    assert complaint("- a\n").startswith("f.yaml:1: must be a section")
    assert complaint("a: *b\n").startswith("f.yaml:1: is not valid YAML: found undefined alias 'b'")
    assert complaint("a: 1\n---\nb: 1\n").startswith("f.yaml:2: is not valid YAML")
    assert complaint("a: &x [*x]\n").startswith("f.yaml:1: a[0]: refers to itself")
    assert complaint("a: !!python/name:os.system x\n").startswith("f.yaml:1: a: has the YAML tag")
    assert complaint("{[a]: 1}\n").startswith("f.yaml:1: a key must be plain text")
    assert "not tabs" in complaint("a:\n\tb: 1\n")
    assert parse_document("", "f.yaml").data == {}


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, what in ((tmp_path / "no.yaml", "there is no such file"), (tmp_path, "is a folder, not a YAML file")):
        with pytest.raises(ConfigError, match=what):
            read_document(path)
    bad = tmp_path / "latin.yaml"
    bad.write_bytes(b"a: \xe9\n")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        read_document(bad)


def test_a_byte_order_mark_is_no_key(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes("\ufeffa: 1\n".encode())
    assert read_document(path).data == {"a": 1}
