"""The app in smolcluster/tablet/ios, which nobody could compile here: its grammar is right, and its numbers, words and
layouts are those of the Python side. Its own tests, on a Mac, hold it to the bytes in golden/.
"""

from __future__ import annotations

import hashlib
import hmac
import plistlib
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import tree_sitter_swift
from tree_sitter import Language, Node, Parser

from smolcluster.runtime.tabletnote import TabletNote, tablet_link
from smolcluster.tablet import channel, door, fetching, greeting, kinds, manifest, reference
from smolcluster.tablet.frames import (
    NUMBERS,
    Failure,
    Fetch,
    Forget,
    Forward,
    Frame,
    Hidden,
    Open,
    Piece,
    Ping,
    Proof,
)
from smolcluster.tablet.kinds import Code, Kind
from smolcluster.tablet.messages import Assign, Hello, Ready
from smolcluster.tablet.remote import Waits
from tests.tablet.test_messages import GOLDEN, KEY, MESSAGES

ROOT = Path(__file__).resolve().parents[2]
IOS = ROOT / "smolcluster" / "tablet" / "ios"
APP = IOS / "Smolcluster.swiftpm"
SOURCES = APP / "TabletProtocol" / "Sources" / "TabletProtocol"
TESTS = APP / "TabletProtocol" / "Tests" / "TabletProtocolTests"
FILES = sorted(IOS.rglob("*.swift"))
LANGUAGE = Language(tree_sitter_swift.language())


def text(name: str, folder: Path = SOURCES) -> str:
    return (folder / f"{name}.swift").read_text(encoding="utf-8")


def errors(source: str) -> list[str]:
    """Where the grammar does not fit, by line."""
    found, nodes = [], [Parser(LANGUAGE).parse(source.encode()).root_node]
    while nodes:
        node: Node = nodes.pop()
        if node.is_error or node.is_missing:
            found.append(f"line {node.start_point[0] + 1}: {source.encode()[node.start_byte : node.end_byte][:60]!r}")
        nodes += node.children
    return found


def snake(name: str) -> str:
    """wrongStage -> WRONG_STAGE."""
    return re.sub(r"(?<=[a-z])([A-Z])", r"_\1", name).upper()


def numbers(source: str) -> dict[str, int]:
    """Every `let name = number` of a file, by its Python name."""
    rows = re.findall(r"^(?:public )?let (\w+)(?:: \w+)? = (.+)$", source, flags=re.M)
    found = {}
    for name, value in rows:
        factor = re.fullmatch(r"(\d+) << (\d+)", value)
        if factor or re.fullmatch(r"\d+(\.\d+)?", value):
            found[snake(name)] = int(factor[1]) << int(factor[2]) if factor else float(value)
    return found


def cases(source: str, enum: str) -> dict[str, int]:
    body = re.search(rf"enum {enum}: .*?\n}}", source, flags=re.S)
    assert body is not None
    return {snake(name): int(value) for name, value in re.findall(r"case (\w+) = (\d+)", body[0])}


def test_the_grammar_tells_good_from_bad() -> None:
    assert not errors("func f(_ x: Int) async throws -> Int { try await g(x) }\n")
    assert errors("func f(_ x: Int -> Int { x }\n")
    assert errors("let x = [1, 2\n")
    assert errors("struct A { let x: Int }}\n")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(IOS).as_posix())
def test_every_file_is_swift(file: Path) -> None:
    source = file.read_text(encoding="utf-8")
    assert not errors(source)
    assert max(map(len, source.splitlines())) <= 120
    assert len(source.splitlines()) <= 250


def test_the_kinds_the_codes_and_the_limits_are_those_of_python() -> None:
    source = text("Kinds")
    assert cases(source, "Kind") == {kind.name: kind.value for kind in Kind}
    assert cases(source, "Code") == {code.name: code.value for code in Code}
    assert [name.lower() for name in cases(source, "Numbers")] == list(NUMBERS)
    assert list(cases(source, "Numbers").values()) == [0, 1]
    names = ("VERSION", "MOST_SMALL", "MOST_BYTES", "MOST_PIECE", "MOST_LISTING", "MOST_REASON", "PROOF_BYTES")
    assert numbers(source) == {name: getattr(kinds, name) for name in names}
    magic = re.search(r"let magic: \[UInt8\] = \[(.+)\]", source)
    assert magic is not None
    assert bytes(int(one, 16) for one in magic[1].split(", ")) == kinds.MAGIC
    assert f"mostPiece + {4 + Piece.layout.size}" in source


LETTERS = {"B": "u8", "H": "u16", "I": "u32", "Q": "u64"}
SIZES = {"B": 1, "H": 2, "I": 4, "Q": 8}


def layout(kind: type[Frame]) -> list[tuple[str, str]]:
    """(what is read, as what) in order; reserved bytes side by side are one."""
    found: list[tuple[str, str]] = []
    for letter, name in zip(kind.layout.format.lstrip("<"), kind.names, strict=True):
        if name:
            found.append((LETTERS[letter], name))
        elif found and found[-1][0] == "reserved":
            found[-1] = ("reserved", str(int(found[-1][1]) + SIZES[letter]))
        else:
            found.append(("reserved", str(SIZES[letter])))
    return found


@pytest.mark.parametrize("kind", [Fetch, Piece, Open, Forget, Hidden, Failure])
def test_what_a_struct_holds_is_read_and_written_in_the_same_order(kind: type[Frame]) -> None:
    block = re.search(rf"^public struct {kind.__name__}: .*?^}}", text("Frames"), flags=re.S | re.M)
    assert block is not None
    reading, writing = block[0].split("func write", 1)
    read = re.findall(r"(?:(\w+) = )?try reader\.(u8|u16|u32|u64|reserved)\((\d*)\)", reading)
    wrote = re.findall(r"writer\.(u8|u16|u32|u64|reserved)\(([\w.]*)\)", writing)
    aliases = {"kind": "number", "rawValue": ""}
    found_reading = [
        (how, count or ("code" if kind is Failure and how == "u16" else aliases.get(name, name)))
        for name, how, count in read
    ]
    found_writing = [(how, what.removesuffix(".rawValue")) for how, what in wrote]
    assert found_reading == layout(kind)
    assert found_writing == layout(kind)
    # And what comes after the numbers.
    tails = {Fetch: ["format", "path"], Piece: ["data"], Hidden: ["values"], Failure: ["reason"]}
    written = re.findall(r"writer\.(?:text|bytes)\((?:shortened\()?(\w+)", writing)
    assert written == tails.get(kind, [])


def test_signs_of_life_and_proofs_have_their_sizes() -> None:
    assert (Ping.layout.format, Proof.layout.format) == ("<I", "<32s")
    source = text("Messages")
    assert "case .ping: return .ping(try reader.u32())" in source
    assert "case .proof: return .proof(try reader.bytes(proofBytes))" in source
    assert Forward.layout is Hidden.layout


def test_the_labels_of_the_proofs_are_those_of_python() -> None:
    labels = dict(re.findall(r'^public let (\w+)Label = "(.+)"$', text("Proofs"), flags=re.M))
    key = hmac.new(b"the secret of the run", labels.pop("key").encode(), hashlib.sha256).digest()
    assert key == KEY
    assert labels == {"dialler": greeting._DIALLER.decode(), "listener": greeting._LISTENER.decode()}


def test_the_keys_of_the_json_messages_are_those_of_python() -> None:
    source = text("Words")

    def keys(struct: str) -> set[str]:
        block = re.search(rf"public struct {struct}: .*?\n    public init", source, flags=re.S)
        assert block is not None
        renamed = dict(re.findall(r'case (\w+) = "(\w+)"', block[0]))
        return {renamed.get(name, name) for name in re.findall(r"public var (\w+): [^{\n]+$", block[0], flags=re.M)}

    assert keys("Greeting") == set(Hello.model_fields)
    assert keys("Assign") == set(Assign.model_fields)
    assert keys("Ready") == set(Ready.model_fields)


def test_stage_json_is_read_under_its_names() -> None:
    block = re.search(r"public struct Stage: .*?\n}", text("Listing"), flags=re.S)
    assert block is not None
    fields = {field.alias or name for name, field in manifest.Manifest.model_fields.items()}
    assert set(re.findall(r"public let (\w+):", block[0])) <= fields
    assert f'manifestName = "{manifest.MANIFEST}"' in text("Listing")
    assert numbers(text("Listing")) == {"MANIFEST_SCHEMA": manifest.MANIFEST_SCHEMA}
    assert f'"{manifest.FILES["coreml"]}"' in text("CoreMLLayers", APP / "App")


def test_its_waits_and_pieces_are_those_of_the_reference() -> None:
    app = APP / "App"
    assert numbers(text("Channel", app)) == {"SILENCE_SECONDS": reference.SILENCE_S}
    assert Waits().silence_s == door.GREETING_S == reference.SILENCE_S
    assert f"strangers = {door.STRANGERS}" in text("Server", app)
    piece = re.search(r"pieceBytes: UInt32 = (\d+) << (\d+)", text("Fetching", app))
    assert piece is not None
    assert int(piece[1]) << int(piece[2]) == fetching.PIECE_BYTES
    assert channel.MOST_SMALL == kinds.MOST_SMALL


def test_the_link_that_a_run_prints_opens_the_app() -> None:
    note = TabletNote(
        time=0.0, run="r", tablet="ipad", app="native", state="waiting", address="172.20.10.3:8000", layers="4:8"
    )
    link = urlsplit(tablet_link(note, KEY))
    info = plistlib.loads((APP / "AdditionalInfo.plist").read_bytes())
    assert info["CFBundleURLTypes"][0]["CFBundleURLSchemes"] == [link.scheme]
    assert "additionalInfoPlistContentFilePath" in text("Package", APP)
    assert f"key={KEY.hex()}" in link.fragment.split("&")
    assert 'part.hasPrefix("key=")' in text("KeyLink")


def test_its_own_tests_read_every_golden_file() -> None:
    named = set(re.findall(r'^\s*\(?"(\w+)",(?: \.|$)', text("Golden", TESTS), flags=re.M))
    named |= set(re.findall(r'^    \("(\w+)", \.', text("Golden", TESTS), flags=re.M))
    proofs = set(re.findall(r'golden\("(\w+)"\)', text("ProofsTests", TESTS)))
    assert named | proofs == set(MESSAGES)
    # The folder that they look for is this one.
    up = re.search(r"for _ in 0\.\.<(\d+)", text("Golden", TESTS))
    assert up is not None
    folder = TESTS / "Golden.swift"
    for _ in range(int(up[1])):
        folder = folder.parent
    assert folder / "tests" / "tablet" / "golden" == GOLDEN


def test_the_protocol_knows_no_core_ml_and_no_network() -> None:
    imports = {
        (file.name, module)
        for file in SOURCES.glob("*.swift")
        for module in re.findall(r"^import (\w+)", file.read_text(encoding="utf-8"), flags=re.M)
    }
    assert {module for _, module in imports} == {"Foundation", "CryptoKit"}
    assert [name for name, module in imports if module == "CryptoKit"] == ["Proofs.swift"]


def test_the_readme_names_files_that_are_there() -> None:
    page = (IOS / "README.md").read_text(encoding="utf-8")
    for name in re.findall(r"`([\w./]+\.swift)`", page):
        assert (APP / name).exists(), name
    told = set(re.findall(r"`(?:App|TabletProtocol/Sources/TabletProtocol)/(\w+)\.swift`", page))
    assert told == {file.stem for folder in (APP / "App", SOURCES) for file in folder.glob("*.swift")}
