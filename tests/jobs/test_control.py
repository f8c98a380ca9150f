"""The control link: who knows the token is obeyed, everything else is refused in time."""

from __future__ import annotations

import errno
import json
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from smolcluster.errors import DeadlineError, HandshakeError, PeerError, PeerLostError, ProtocolError
from smolcluster.jobs.control import ControlServer, ask
from smolcluster.jobs.types import CONTROL_DEADLINE_S
from smolcluster.jobs.wire import ControlFile, Line, LineSocket, Reply, Request, prove
from smolcluster.runtime.runfolder import JobState
from tests.jobs.node import until

JOB = JobState(run_id="r", node="n", state="running", pid=1, generation=0, ranks={0: "running"})


class Recorder:
    def __init__(self) -> None:
        self.requests: list[Request] = []

    def __call__(self, request: Request) -> Reply:
        self.requests.append(request)
        return Reply(job=JOB, lease_s=4.0)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def path(tmp_path: Path, recorder: Recorder) -> Iterator[Path]:
    file = tmp_path / "control.json"
    with ControlServer(file, recorder, deadline_s=0.5):
        yield file


def dial(path: Path) -> socket.socket:
    return socket.create_connection(("127.0.0.1", json.loads(path.read_text())["port"]), timeout=5)


def test_request_and_reply(path: Path, recorder: Recorder) -> None:
    request = Request(command="stop", reason="enough", grace_s=2.5)
    assert ask(path, request) == Reply(job=JOB, lease_s=4.0)
    assert recorder.requests == [request]


def test_file_is_for_its_owner_and_goes_when_withdrawn(tmp_path: Path, recorder: Recorder) -> None:
    file = tmp_path / "control.json"
    with ControlServer(file, recorder) as server:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        server.withdraw()
        with pytest.raises(PeerLostError, match="no supervisor listens"):
            ask(file, Request(command="poll"))


def test_it_listens_on_loopback_only(path: Path) -> None:
    port = json.loads(path.read_text())["port"]
    # Not by dialling 127.0.0.2: another test's listener may have the same port there.
    opened = [socket.laddr for socket in psutil.Process().net_connections("inet") if socket.status == "LISTEN"]
    assert [address.ip for address in opened if address.port == port] == ["127.0.0.1"]


@pytest.mark.parametrize("trouble", [OSError(errno.EMFILE, "Too many open files"), ConnectionAbortedError("gone")])
def test_a_connection_that_cannot_be_accepted_is_not_the_last(
    path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, trouble: OSError
) -> None:
    accept, troubles = socket.socket.accept, [trouble]

    def fails_once(listening: socket.socket) -> tuple[socket.socket, object]:
        if troubles:
            raise troubles.pop()
        return accept(listening)

    monkeypatch.setattr(socket.socket, "accept", fails_once)
    until(lambda: not troubles, "the trouble comes")
    assert ask(path, Request(command="poll")) == Reply(job=JOB, lease_s=4.0)
    assert len(recorder.requests) == 1


def test_wrong_token_is_refused(path: Path, recorder: Recorder, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    file = ControlFile.model_validate_json(path.read_bytes())
    other.write_text(file.model_copy(update={"token": "0" * 64}).model_dump_json(by_alias=True))
    with pytest.raises(HandshakeError, match="the proof of the token is wrong"):
        ask(other, Request(command="stop"))
    assert recorder.requests == []


def test_token_never_travels(path: Path) -> None:
    token = json.loads(path.read_text())["token"]
    server = socket.create_server(("127.0.0.1", 0))
    heard = bytearray()

    def relay() -> None:
        """A listener between the two ends that writes down what passes."""
        near, _ = server.accept()
        with near, dial(path) as far:
            for source, sink in ((far, near), (near, far), (far, near)):
                data = source.recv(65536)
                heard.extend(data)
                sink.sendall(data)

    thread = threading.Thread(target=relay)
    thread.start()
    file = ControlFile.model_validate_json(path.read_bytes())
    path.with_name("relayed.json").write_text(
        file.model_copy(update={"port": server.getsockname()[1]}).model_dump_json(by_alias=True)
    )
    ask(path.with_name("relayed.json"), Request(command="poll"))
    thread.join(5)
    server.close()
    assert b"proof" in heard
    assert token.encode() not in heard


def test_recorded_request_cannot_be_played_again(path: Path, recorder: Recorder) -> None:
    token = json.loads(path.read_text())["token"]
    text = Request(command="stop").model_dump_json()
    with dial(path) as sock:
        lines = LineSocket(sock, 5)
        challenge = lines.receive().challenge
        assert challenge is not None
        proven = Line(nonce="n", request=text, proof=prove(token, "request", challenge, "n", text))
        lines.send(proven)
        assert lines.receive().reply is not None
    with dial(path) as sock:
        lines = LineSocket(sock, 5)
        lines.receive()
        lines.send(proven)
        assert lines.receive().refused == "the proof of the token is wrong"
    assert len(recorder.requests) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"\x80\x04garbage\n",
        b"x" * 70_000,
        b"{}\n",
        b'{"unknown": 1}\n',
        b'{"nonce": "a"',
        b"",
    ],
)
def test_garbage_is_dropped_and_the_link_goes_on(path: Path, recorder: Recorder, data: bytes) -> None:
    with dial(path) as sock:
        sock.settimeout(5)
        sock.recv(4096)
        try:
            sock.sendall(data)
            while sock.recv(4096):
                pass
        except ConnectionError:
            pass
    assert ask(path, Request(command="poll")).job == JOB
    assert len(recorder.requests) == 1


def test_unknown_command_is_refused(path: Path, recorder: Recorder) -> None:
    token = json.loads(path.read_text())["token"]
    with dial(path) as sock:
        lines = LineSocket(sock, 5)
        challenge = lines.receive().challenge
        assert challenge is not None
        text = '{"command": "format"}'
        lines.send(Line(nonce="n", request=text, proof=prove(token, "request", challenge, "n", text)))
        assert lines.receive().refused == "this request is not known here"
    assert recorder.requests == []


def test_many_silent_callers_do_not_keep_others_out_for_long(path: Path) -> None:
    silent = [dial(path) for _ in range(20)]
    end = time.monotonic() + 5
    while True:
        try:
            assert ask(path, Request(command="poll"), deadline_s=2).job == JOB
            break
        except PeerError:
            assert time.monotonic() < end
    for sock in silent:
        sock.close()


def fake_supervisor(tmp_path: Path, *answers: bytes) -> tuple[Path, threading.Thread]:
    """A process that has the port of control.json and does not know the token."""
    server = socket.create_server(("127.0.0.1", 0))
    file = tmp_path / "control.json"
    file.write_text(ControlFile(port=server.getsockname()[1], token="0" * 64).model_dump_json(by_alias=True))

    def serve() -> None:
        with server:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(5)
                for answer in answers:
                    connection.sendall(answer)
                    connection.recv(65536)

    thread = threading.Thread(target=serve)
    thread.start()
    return file, thread


def test_somebody_else_on_the_port_is_not_believed(tmp_path: Path) -> None:
    reply = Reply(job=JOB).model_dump_json(by_alias=True)
    forged = Line(reply=reply, proof="0" * 64).model_dump_json(by_alias=True, exclude_none=True).encode() + b"\n"
    file, thread = fake_supervisor(tmp_path, b'{"schema": 1, "challenge": "c"}\n', forged)
    with pytest.raises(HandshakeError, match="does not know the token"):
        ask(file, Request(command="poll"))
    thread.join(5)


def test_another_protocol_on_the_port(tmp_path: Path) -> None:
    file, thread = fake_supervisor(tmp_path, b"SSH-2.0-OpenSSH\r\n")
    with pytest.raises(ProtocolError):
        ask(file, Request(command="poll"))
    thread.join(5)


def test_nobody_answers_in_time(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        file = tmp_path / "control.json"
        file.write_text(ControlFile(port=server.getsockname()[1], token="0" * 64).model_dump_json(by_alias=True))
        before = time.monotonic()
        with pytest.raises(DeadlineError, match=r"within 0\.3 s"):
            ask(file, Request(command="poll"), deadline_s=0.3)
        assert time.monotonic() - before < CONTROL_DEADLINE_S  # what it would be if nobody said


def test_port_where_nobody_listens(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    file = tmp_path / "control.json"
    file.write_text(ControlFile(port=port, token="0" * 64).model_dump_json(by_alias=True))
    with pytest.raises(PeerLostError, match="no supervisor answers"):
        ask(file, Request(command="poll"))
