"""The link between the API's rank and the head: words arrive whole or not at all, and no end of either side hangs."""

import queue
import threading
from contextlib import ExitStack, contextmanager

import pytest

from smolcluster.comm.announce import announce
from smolcluster.comm.clock import Deadline
from smolcluster.comm.frame import Kind
from smolcluster.comm.opening import open_mesh
from smolcluster.errors import BusyError, PeerError, PeerLostError, RequestError
from smolcluster.infer.gate import Gate
from smolcluster.infer.local import LocalHead
from smolcluster.infer.request import Delta, Done, Failed, Request
from smolcluster.infer.words import (
    GATE,
    MOST_BYTES,
    Counted,
    Op,
    Text,
    frame,
    read,
)
from smolcluster.models.sampling import Sampling
from tests.infer.gates import ABOUT, STAGE, USAGE, WAIT_S, Script, client_of, end_of, gated, pair, wait_for
from tests.infer.infer_models import generate, small_tokenizer
from tests.infer.stage_pool import settings
from tests.infer.test_engine import CUTS, GREEDY, collect, prompt_of, wait_until_free

# One process, a scripted head


def test_the_head_s_answers_and_errors_cross_the_link(tmp_path):
    head = Script()
    with pair(tmp_path, head) as client:
        assert client.count("one two three") == 3
        assert client.health() == head.health()
        client.reconnect(7.0)
        assert head.reconnected == [7.0]
        for error in (RequestError("the prompt is empty"), BusyError("try again"), PeerLostError("no chain")):
            head.refusing = error
            for ask in (lambda: client.submit(Request([1])), lambda: client.count("x")):
                with pytest.raises(type(error), match=str(error)) as found:
                    ask()
                assert type(found.value) is type(error)
        head.refusing = PeerError("rank 2 did not connect")
        with pytest.raises(PeerError, match="rank 2 did not connect"):
            client.reconnect(1.0)
        head.refusing = KeyError("a bug")
        with pytest.raises(PeerLostError, match="a bug"):
            client.submit(Request([1]))
        head.refusing = None
        stream = client.submit(Request("hello", 3, Sampling(0.0), seed=5))
        key, request = head.submitted.get(timeout=WAIT_S)
        assert request == Request("hello", 3, Sampling(0.0), seed=5)
        assert (stream.within_s, stream.prompt_tokens) == (30.0, 5)
        told = [Delta(1, "a"), Delta(2, "€"), Done("length", "!", USAGE)]
        for event in told:
            head.told[key](event)
        assert list(stream) == told


def test_cancel_and_a_reader_that_leaves_reach_the_head(tmp_path):
    head = Script()
    with pair(tmp_path, head) as client:
        streams = [client.submit(Request([1])) for _ in range(2)]
        streams[0].cancel()
        assert head.cancelled.get(timeout=WAIT_S) == 0
        head.told[0](Done("cancelled", "", USAGE))
        assert end_of(streams[0]).reason == "cancelled"
        streams[0].cancel()  # nothing happens to one that has ended
        head.told[1](Delta(1, "a"))
        next(iter(streams[1]))
        assert head.cancelled.get(timeout=WAIT_S) == 1
        head.told[1](Done("cancelled", "", USAGE))
        assert client.count("x") == 1  # what came before it has been taken
    assert head.cancelled.empty()


def test_an_owner_that_cannot_be_told_ends_its_own_request_only(tmp_path):
    head = Script()

    def gone(event):
        raise RuntimeError("Event loop is closed")

    with pair(tmp_path, head) as client:
        client.submit(Request([1]), gone)
        other = client.submit(Request([1]))
        head.told[0](Delta(1, "a"))
        assert head.cancelled.get(timeout=WAIT_S) == 0
        head.told[1](Done("stop", "", USAGE))
        assert end_of(other).reason == "stop"


def test_the_end_of_the_client_cancels_all_that_it_asked_and_the_next_one_is_let_in(tmp_path):
    head = Script()
    with gated(tmp_path, head):
        for turn in range(3):
            client = client_of(tmp_path)
            client.about()
            streams = [client.submit(Request([1])) for _ in range(3)]
            head.told[3 * turn](Delta(1, "a"))
            client.close()
            assert sorted(head.cancelled.get(timeout=WAIT_S) for _ in range(3)) == [3 * turn + n for n in range(3)]
            for stream in streams:
                end = end_of(stream)
                assert (end.trouble, end.usage.prompt_tokens) == ("closed", 1)
            with pytest.raises(PeerLostError, match="closed"):
                client.submit(Request([1]))
            assert client.health().state == "closed"
            client.close()


def test_a_broken_link_ends_requests_and_the_client_dials_again(tmp_path):
    head = Script()
    with pair(tmp_path, head) as client:
        stream = client.submit(Request([1, 2]))
        head.told[0](Delta(1, "a"))
        reader = iter(stream)
        assert next(reader) == Delta(1, "a")
        client._link.abort()
        end = next(reader)
        assert (end.trouble, end.usage.prompt_tokens, end.usage.completion_tokens) == ("stage_lost", 2, 1)
        # The head's own end of the link may be heard of before the failure of this one.
        assert end.message.startswith(("the head was lost", "the head has hung up"))
        assert head.cancelled.get(timeout=WAIT_S) == 0
        head.told[0](Delta(2, "b"))  # nobody's any more
        wait_for(client, "ready")
        stream = client.submit(Request([1]))
        head.told[1](Done("stop", "", USAGE))
        assert end_of(stream) == Done("stop", "", USAGE)


def test_a_head_that_starts_again_elsewhere_is_found(tmp_path):
    client = client_of(tmp_path)
    try:
        assert client.health().state == "starting"
        with pytest.raises(PeerLostError, match="not been reached"):
            client.submit(Request([1]))
        ports = set()
        for _ in range(2):
            head = Script()
            with gated(tmp_path, head) as gate:
                ports.add(gate._mesh.listener.endpoint.port)
                wait_for(client, "ready")
                stream = client.submit(Request([1]))
            end = end_of(stream)
            assert (end.trouble, end.message) == ("stage_lost", "the head has hung up")
            lost = wait_for(client, "lost")
            assert lost.stages == (STAGE.model_copy(update={"alive": False, "sessions": 0, "steps": 0}),)
            assert "head" in lost.reason
            with pytest.raises(PeerLostError, match="the head"):
                client.submit(Request([1]))
        assert len(ports) == 2
    finally:
        client.close()


def test_a_head_that_falls_silent_is_lost(tmp_path):
    head = Script()
    mesh = open_mesh(settings(0, 2, str(tmp_path)))
    announce(tmp_path / "endpoint.json", mesh.listener.endpoint, "serving", 0)
    with ExitStack() as stack:
        stack.callback(mesh.listener.close)
        gate = Gate(head, mesh, 1)  # without a pulse
        stack.callback(gate.close)
        client = client_of(tmp_path, timeout_s=1.0)
        stack.callback(client.close)
        client.about()
        end = end_of(client.submit(Request([1])))
        assert end.trouble == "stage_lost"
        assert "sent nothing for 1 s" in end.message


@contextmanager
def raw_link(folder):
    """The API's end of a link, in the test's own hands."""
    config = settings(1, 2, str(folder), listen=())
    mesh = open_mesh(config)
    client = mesh.link(0, GATE, mesh_endpoint(config), Deadline(WAIT_S))
    try:
        yield client
    finally:
        mesh.drop(client)


def mesh_endpoint(config):
    from smolcluster.comm.opening import where_is_rank_0

    return where_is_rank_0(config, Deadline(WAIT_S))


def send(link, what) -> None:
    link.send(Kind.MESSAGE, what.payload, op=what.op, tag=what.tag)


def test_a_reader_that_is_too_slow_loses_its_requests_and_no_memory_is_held(tmp_path):
    head = Script()
    with gated(tmp_path, head, most_waiting=50), raw_link(tmp_path) as link:
        for tag in (1, 2, 3):
            send(link, frame(Op.SUBMIT, tag, Request([1])))
            head.submitted.get(timeout=WAIT_S)
        head.told[2](Done("stop", "", USAGE))  # all of it is under way
        text = "x" * (1 << 20)  # the kernel takes a few of these, and then no more
        told = 0
        while head.cancelled.empty():
            head.told[0](Delta(told, text))
            told += 1
            assert told < 2000
        assert sorted(head.cancelled.get(timeout=WAIT_S) for _ in range(2)) == [0, 1]
        head.told[0](Delta(told, text))
        seen = []
        while {(Op.BEHIND, 1), (Op.BEHIND, 2), (Op.DONE, 3)} - set(seen):
            op, tag, _ = read(link.receive(WAIT_S, MOST_BYTES), "the head")
            seen.append((op, tag))
        assert seen.count((Op.DONE, 3)) == 1
        assert 0 < seen.count((Op.DELTA, 1)) < told - 40
        # It goes on with what comes next.
        send(link, frame(Op.COUNT, 9, Text(text="a b")))
        assert read(link.receive(WAIT_S, MOST_BYTES), "the head") == (Op.COUNTED, 9, Counted(tokens=2))


def test_behind_is_a_failed_request_of_the_client_s(tmp_path):
    head = Script()
    with pair(tmp_path, head, most_waiting=2) as client:
        held, go = threading.Event(), threading.Event()

        def slow(event):
            held.set()
            go.wait(WAIT_S)
            ends.put(event)

        ends: queue.SimpleQueue = queue.SimpleQueue()
        client.submit(Request([1]), slow)
        text = "x" * (1 << 20)
        for number in range(200):
            head.told[0](Delta(number, text))
        assert head.cancelled.get(timeout=WAIT_S) == 0
        go.set()
        last = ends.get(timeout=WAIT_S)
        count = 0
        while isinstance(last, Delta):
            assert last.token == count  # none is left out before the end
            count += 1
            last = ends.get(timeout=WAIT_S)
        assert (last.trouble, last.usage.completion_tokens) == ("session", count)


def hear_all(link) -> None:
    while True:
        link.receive(WAIT_S)


@pytest.mark.parametrize(
    "wrong",
    [
        (200, 1, b""),
        (Op.ABOUT, 0, ABOUT.model_dump_json().encode()),
        (Op.SUBMIT, 1, b"{}"),
        (Op.SUBMIT, 1, b'{"prompt": [1], "sampling": {"temperature": -1}}'),
        (Op.CANCEL, 1, b"x"),
        (Op.COUNT, 1, b""),
    ],
)
def test_a_caller_that_breaks_the_protocol_is_hung_up_on_and_its_requests_end(tmp_path, wrong):
    head = Script()
    with gated(tmp_path, head):
        with raw_link(tmp_path) as link:
            send(link, frame(Op.SUBMIT, 1, Request([1])))
            head.submitted.get(timeout=WAIT_S)
            op, tag, payload = wrong
            link.send(Kind.MESSAGE, payload, op=op, tag=tag)
            assert head.cancelled.get(timeout=WAIT_S) == 0
            with pytest.raises(PeerLostError):
                hear_all(link)
        client = client_of(tmp_path)
        wait_for(client, "ready")
        client.close()


# An engine behind it


def test_a_model_is_served_through_the_gate(stages, models, tmp_path):
    model, folder = models("llama")
    with stages.serving(folder, CUTS, tokenizer=small_tokenizer()) as engine, ExitStack() as stack:
        stack.enter_context(pair_of_engine(tmp_path, engine))
        client = client_of(tmp_path)
        stack.callback(client.close)
        client.about()
        asked = [
            (prompt_of(4, number), client.submit(Request(prompt_of(4, number), 20, GREEDY))) for number in range(6)
        ]
        for prompt, stream in asked:
            tokens, _, end = collect(stream)
            assert tokens == generate(model, prompt, 20)
            assert (end.reason, end.usage.completion_tokens) == ("length", 20)
        assert client.count("the cat") == len(small_tokenizer().encode("the cat").ids)
        health = client.health()
        assert [(stage.rank, stage.node, stage.start, stage.stop, stage.alive) for stage in health.stages] == [
            (rank, f"n{rank}", start, stop, True) for rank, (start, stop) in enumerate(CUTS)
        ]
        assert (health.state, health.tokens) == ("ready", 120)
        running = [client.submit(Request(prompt_of(4, number), 40, GREEDY)) for number in range(3)]
        next(iter_ := iter(running[0]))
        client.close()
        *_, end = iter_
        assert isinstance(end, (Failed, Done))
        wait_until_free(engine)


@contextmanager
def pair_of_engine(folder, engine):
    nodes = {rank: f"n{rank}" for rank in range(3)}
    with gated(folder, LocalHead(engine, ABOUT, nodes)) as gate:
        yield gate
