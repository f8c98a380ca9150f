"""A tablet that lacks its layers gets them over the protocol, whole and checked; who asks for more gets nothing."""

import contextlib
import json
import threading

import pytest

from smolcluster.comm.clock import Deadline
from smolcluster.errors import DeadlineError, HandshakeError, InputError, PeerError, PeerLostError, ProtocolError
from smolcluster.files import hash_of
from smolcluster.tablet.export import export_onnx
from smolcluster.tablet.fetching import fetch_package
from smolcluster.tablet.manifest import MANIFEST
from smolcluster.tablet.messages import (
    MOST_PIECE,
    Assign,
    Code,
    Failure,
    Fetch,
    Piece,
    Ping,
    Pong,
    Ready,
)
from smolcluster.tablet.packages import Packages, read_listing
from smolcluster.tablet.reference import OnnxTablet, ReferenceTablet, assignment
from smolcluster.tablet.remote import Waits
from tests.infer.infer_models import CONTEXT
from tests.tablet.tablets import LONG, dialler, inputs, listening, local, pair, remote

SMALL = 1000


@pytest.fixture(scope="module")
def exported(decoder, tmp_path_factory):
    return export_onnx(decoder, "llama", CONTEXT, tmp_path_factory.mktemp("exports"))


@pytest.fixture
def assign(decoder, exported):
    packages = {"onnx": exported.manifest.hash}
    return assignment(decoder, "llama", CONTEXT).model_copy(update={"packages": packages})


@pytest.fixture
def asked(stage_of, assign, exported):
    """asked(fetch) -> what the cluster answers to a tablet that has got its assignment."""
    with pair() as (mine, theirs):
        stage = stage_of(lambda deadline: mine, assign, packages={"onnx": exported.folder})
        ends = []

        def cluster():
            with pytest.raises(PeerError) as end:
                stage.open()
            ends.append(end.value)

        thread = threading.Thread(target=cluster)
        thread.start()
        assert isinstance(theirs.receive(Deadline(LONG)), Assign)

        def ask(fetch):
            theirs.send(fetch, Deadline(LONG))
            while isinstance(message := theirs.receive(Deadline(LONG)), Ping):
                theirs.send(Pong(message.number), Deadline(LONG))
            return message

        ask.ends, ask.channel = ends, theirs
        yield ask
        theirs.abort()
        thread.join(LONG)
        assert len(ends) == 1


def test_a_tablet_without_layers_fetches_them_and_computes(decoder, exported, assign, stage_of, tmp_path):
    pieces = inputs((7, 1, 1, 3))
    with listening(OnnxTablet(tmp_path)) as served:
        stage = stage_of(dialler(served.where), assign, packages={"onnx": exported.folder})
        assert stage.open() == Ready(
            device="Python, onnxruntime", format="onnx", hash=exported.manifest.hash, layers="1:3"
        )
        for got, wanted in zip(remote(stage, 1, pieces), local(decoder, pieces), strict=True):
            assert (got - wanted).abs().max() <= 1e-4
    [folder] = tmp_path.iterdir()
    assert folder.name == exported.manifest.hash
    assert {file.name: hash_of(file) for file in folder.iterdir()} == {
        file.name: hash_of(file) for file in exported.folder.iterdir()
    }


def test_what_was_fetched_once_is_not_fetched_again(exported, assign, stage_of, tmp_path):
    with listening(OnnxTablet(tmp_path)) as served:
        first = stage_of(dialler(served.where), assign, packages={"onnx": exported.folder})
        assert first.open().format == "onnx"
        first.close()
        # This cluster could hand nothing out.
        assert stage_of(dialler(served.where), assign).open().hash == exported.manifest.hash
        # A part of it is gone: it is fetched again.
        (tmp_path / exported.manifest.hash / exported.file.name).unlink()
        with pytest.raises(ProtocolError, match="no package for 'onnx' is handed out here, but none"):
            stage_of(dialler(served.where), assign).open()
        stage_of(dialler(served.where), assign, packages={"onnx": exported.folder}).open()
        assert hash_of(tmp_path / exported.manifest.hash / exported.file.name) == hash_of(exported.file)


def answers(theirs, packages, change=lambda piece: piece):
    """A cluster by hand: pieces until the other end goes; a PING before each."""
    delivery, paths = packages.delivery(), []
    number = 0
    while True:
        try:
            message = theirs.receive(Deadline(LONG))
        except PeerError:
            return paths
        if isinstance(message, Pong):
            continue
        if isinstance(message, Failure):
            return paths
        assert isinstance(message, Fetch)
        number += 1
        paths.append((message.path, message.offset))
        theirs.send(Ping(number), Deadline(LONG))
        theirs.send(change(delivery.answer(message)[0]), Deadline(LONG))


def fetched(assign, packages, cache, change=lambda piece: piece):
    """(the folder or the error, what was asked for)"""
    asked = []
    with pair() as (mine, theirs):
        thread = threading.Thread(target=lambda: asked.extend(answers(mine, packages, change)))
        thread.start()
        try:
            result = fetch_package(theirs, assign, "onnx", cache, LONG)
        except PeerError as error:
            result = error
        finally:
            theirs.abort()
            thread.join(LONG)
    return result, asked


def test_a_download_that_broke_off_goes_on_where_it_was(exported, assign, tmp_path, monkeypatch):
    monkeypatch.setattr("smolcluster.tablet.fetching.PIECE_BYTES", SMALL)
    packages = Packages({"onnx": exported.folder})
    partial = tmp_path / f"{exported.manifest.hash}.partial"
    partial.mkdir()
    content = exported.file.read_bytes()
    (partial / "stage.onnx").write_bytes(content[:-500])
    folder, asked = fetched(assign, packages, tmp_path)
    assert folder == tmp_path / exported.manifest.hash
    assert (folder / "stage.onnx").read_bytes() == content
    assert [offset for path, offset in asked if path == "stage.onnx"] == [len(content) - 500]
    assert not partial.exists()


def test_bytes_that_are_not_those_of_the_listing_are_found_out(exported, assign, tmp_path):
    packages = Packages({"onnx": exported.folder})

    def turned(piece):
        is_listing = piece.data.startswith(b'{"files"')
        return piece if is_listing else Piece(piece.request, piece.offset, piece.size, piece.data[::-1])

    error, _ = fetched(assign, packages, tmp_path, turned)
    assert isinstance(error, ProtocolError)
    assert "with another hash than in its listing" in str(error)
    assert not (tmp_path / exported.manifest.hash).exists()
    # Nothing of it is taken for a good beginning.
    assert fetched(assign, packages, tmp_path)[0] == tmp_path / exported.manifest.hash


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda piece: Piece(piece.request, piece.offset, MOST_PIECE + 1, piece.data), "a listing of 1048577 bytes"),
        (lambda piece: Piece(piece.request + 1, piece.offset, piece.size, piece.data), "was not asked for"),
        (lambda piece: Piece(piece.request, piece.offset, piece.size, b""), "was not asked for"),
        (lambda piece: Pong(1), "PONG where PIECE was due"),
        (lambda piece: Failure(Code.NO_FILE, "none here"), "refused: none here"),
    ],
)
def test_a_cluster_that_sends_something_else_is_told_off(exported, assign, tmp_path, change, words):
    error, _ = fetched(assign, Packages({"onnx": exported.folder}), tmp_path, change)
    assert isinstance(error, PeerError)
    assert words in str(error)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "path",
    ["../up", "/etc/passwd", "a/../../up", "a//b", "./a", "", "a\\..\\b", "C:/a", "a\nb", "stage.json", "STAGE.JSON"],
)
def test_a_listing_leads_nowhere_but_into_its_folder(exported, path):
    raw = json.loads(Packages({"onnx": exported.folder}).delivery().answer(Fetch(1, "onnx", ""))[0].data)
    assert read_listing(json.dumps(raw).encode(), "it").size_bytes == sum(
        file.stat().st_size for file in exported.folder.iterdir()
    )
    raw["files"].append({"path": path, "sha256": "0" * 64, "size": 1})
    with pytest.raises(ProtocolError):
        read_listing(json.dumps(raw).encode(), "it")


def test_the_listing_says_what_there_is(asked, exported):
    piece = asked(Fetch(1, "onnx", ""))
    assert (piece.request, piece.offset, piece.size) == (1, 0, len(piece.data))
    raw = json.loads(piece.data)
    assert raw["stage"] == json.loads((exported.folder / MANIFEST).read_text())
    assert raw["files"] == [
        {"path": name, "sha256": hash_of(exported.folder / name), "size": (exported.folder / name).stat().st_size}
        for name in ("stage.json", "stage.onnx")
    ]


def test_a_giant_wish_gets_one_piece_and_the_end_gets_none(asked, exported):
    content = exported.file.read_bytes()
    piece = asked(Fetch(1, "onnx", "stage.onnx", 10, 0xFFFFFFFF))
    assert piece.data == content[10 : 10 + MOST_PIECE]
    assert asked(Fetch(2, "onnx", "stage.onnx", len(content), 5)) == Piece(2, len(content), len(content), b"")


@pytest.mark.parametrize(
    ("fetch", "code", "words"),
    [
        (Fetch(1, "coreml", ""), Code.NO_FILE, "no package for 'coreml' is handed out here, but onnx"),
        (Fetch(1, "onnx", "stage.mlpackage"), Code.NO_FILE, "no file 'stage.mlpackage' is in the package"),
        (Fetch(1, "onnx", "../x"), Code.NO_FILE, "no file '../x' is in the package"),
        (Fetch(1, "onnx", "/etc/hostname"), Code.NO_FILE, "no file '/etc/hostname' is in the package"),
        (Fetch(1, "onnx", "./stage.onnx"), Code.NO_FILE, "no file './stage.onnx' is in the package"),
        (Fetch(1, "onnx", "stage.onnx", 1 << 63), Code.BAD_MESSAGE, f"at {1 << 63} of a file of"),
        (Fetch(1, "onnx", "", 1 << 40), Code.BAD_MESSAGE, f"at {1 << 40} of a file of"),
        (Fetch(1, "onnx", "stage.onnx", 0, 0), Code.BAD_MESSAGE, "asked for 0 bytes"),
    ],
)
def test_what_is_not_in_the_listing_ends_the_connection(asked, fetch, code, words):
    answer = asked(fetch)
    assert isinstance(answer, Failure)
    assert answer.code is code
    assert words in answer.reason
    with pytest.raises(PeerLostError):
        asked.channel.receive(Deadline(LONG))


def test_after_ready_nothing_is_handed_out(assign, exported, stage_of):
    with pair() as (mine, theirs):
        stage = stage_of(lambda deadline: mine, assign, packages={"onnx": exported.folder})
        ended = []

        def tablet():
            theirs.receive(Deadline(LONG))
            ready = Ready(device="d", format="onnx", hash=exported.manifest.hash, layers="1:3")
            theirs.send(ready, Deadline(LONG))
            theirs.send(Fetch(1, "onnx", ""), Deadline(LONG))
            while not isinstance(message := theirs.receive(Deadline(LONG)), Failure):
                pass
            ended.append(message)

        thread = threading.Thread(target=tablet)
        thread.start()
        with pytest.raises(ProtocolError, match="sent FETCH, which nobody waits for"):
            stage.forward(1, inputs((2,))[0], 0)
        thread.join(LONG)
        assert ended[0].code is Code.BAD_MESSAGE


def test_who_asks_for_the_same_again_and_again_gets_no_more_time(assign, exported, stage_of):
    with pair() as (mine, theirs):
        waits = Waits(LONG, ready_s=0.5, forward_s=LONG, heartbeat_s=0.1, silence_s=LONG)
        stage = stage_of(lambda deadline: mine, assign, waits, {"onnx": exported.folder})

        def tablet():
            with contextlib.suppress(PeerLostError):
                while True:
                    theirs.send(Fetch(1, "onnx", "stage.onnx", 0, SMALL), Deadline(LONG))
                    theirs.receive(Deadline(LONG))

        thread = threading.Thread(target=tablet)
        thread.start()
        with pytest.raises(DeadlineError, match=r"did not answer within 0\.5 s"):
            stage.open()
        thread.join(LONG)


def test_a_file_that_has_changed_since_is_not_handed_out(decoder, tmp_path):
    made = export_onnx(decoder, "llama", CONTEXT, tmp_path)
    delivery = Packages({"onnx": made.folder}).delivery()
    made.file.write_bytes(b"short")
    with pytest.raises(ProtocolError, match="has changed since the cluster started"):
        delivery.answer(Fetch(1, "onnx", "stage.onnx"))
    made.file.unlink()
    with pytest.raises(ProtocolError, match="cannot be read any more"):
        delivery.answer(Fetch(1, "onnx", "stage.onnx"))


def test_a_folder_that_is_no_export_and_one_of_another_hash_are_told_at_once(
    decoder, exported, assign, stage_of, tmp_path
):
    with pytest.raises(InputError, match=r"stage\.json"):
        Packages({"onnx": tmp_path})
    with pytest.raises(ValueError, match="a package for onnx, not for coreml"):
        Packages({"coreml": exported.folder})
    other = assign.model_copy(update={"packages": {"onnx": "0" * 64}})
    with pytest.raises(ValueError, match="the assignment names another one"):
        stage_of(dialler(None), other, packages={"onnx": exported.folder})
    made = export_onnx(decoder, "llama", CONTEXT, tmp_path)
    made.file.rename(tmp_path / "elsewhere")
    made.file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is a link"):
        Packages({"onnx": made.folder})


def test_a_tablet_that_is_given_a_format_it_does_not_know_says_so(decoder, stage_of, tmp_path):
    with listening(OnnxTablet(tmp_path)) as served:
        stage = stage_of(dialler(served.where), assignment(decoder, "llama", CONTEXT))
        with pytest.raises(HandshakeError, match="assigns layers 1:3 not as onnx"):
            stage.open()


def test_a_package_that_cannot_be_loaded_is_told(exported, assign, stage_of, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / MANIFEST).write_bytes((exported.folder / MANIFEST).read_bytes())
    (broken / "stage.onnx").write_bytes(b"no program")
    with listening(OnnxTablet(tmp_path / "cache")) as served:
        stage = stage_of(dialler(served.where), assign, packages={"onnx": broken})
        with pytest.raises(HandshakeError, match=r"refused: .*(protobuf|Protobuf)"):
            stage.open()


def test_a_tablet_that_has_its_layers_asks_for_nothing(decoder, stage_of):
    with listening(ReferenceTablet(decoder, CONTEXT)) as served:
        assert stage_of(dialler(served.where), assignment(decoder, "llama", CONTEXT)).open().format == "torch"
