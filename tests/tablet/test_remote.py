"""A stage on a tablet: the same numbers as here, and an error within the deadline for everything that goes wrong."""

import socket
import threading

import numpy as np
import pytest
import torch

from smolcluster.comm.clock import Deadline
from smolcluster.errors import DeadlineError, HandshakeError, PeerError, PeerLostError, ProtocolError
from smolcluster.models.decoder import Row
from smolcluster.models.partition import LayerRange
from smolcluster.models.stage_weights import load_stage
from smolcluster.tablet.channel import Channel
from smolcluster.tablet.door import Door, dial
from smolcluster.runtime.tabletnote import tablet_key
from smolcluster.tablet.greeting import Self
from smolcluster.tablet.messages import (
    MOST_SMALL,
    Code,
    Failure,
    Forget,
    Forward,
    Open,
    Ping,
    Pong,
    Ready,
    Result,
    encode,
)
from smolcluster.tablet.reference import FORMAT, ReferenceTablet, assignment
from smolcluster.tablet.remote import SessionGoneError, TabletStage, Waits
from tests.infer.infer_models import CONTEXT, LAYERS, VOCABULARY
from tests.tablet.tablets import CLUSTER, KEY, LONG, RUN, TABLET, dialler, listening, pair

PATIENT = Waits(connect_s=LONG, ready_s=LONG, forward_s=LONG, heartbeat_s=0.2, silence_s=LONG)
STRANGER = Self("cluster", RUN, "mini1", tablet_key(b"another secret"))


@pytest.fixture(scope="module")
def decoder(models):
    return load_stage(models("llama")[1], LayerRange(1, 3, LAYERS))


@pytest.fixture
def stage_of():
    """stage_of(connect, assign, waits) -> a TabletStage that is closed at the end."""
    made = []

    def make(connect, assign, waits=PATIENT):
        made.append(TabletStage(connect, assign, waits))
        return made[-1]

    yield make
    for stage in made:
        stage.close()


def inputs(counts, width=48, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, width, generator=generator) for count in counts]


def local(decoder, pieces):
    cache = decoder.new_cache(CONTEXT)
    return [decoder(piece, [Row(cache, len(piece), True)]) for piece in pieces]


def remote(stage, session, pieces):
    out, position = [], 0
    for piece in pieces:
        out.append(stage.forward(session, piece, position))
        position += len(piece)
    return out


def test_an_app_that_listens_computes_the_same_bits(decoder, stage_of):
    pieces = inputs((7, 1, 1, 3))
    with listening(ReferenceTablet(decoder, CONTEXT)) as served:
        stage = stage_of(dialler(served.where), assignment(decoder, "llama", CONTEXT))
        assert stage.open().device == "Python"
        for got, wanted in zip(remote(stage, 1, pieces), local(decoder, pieces), strict=True):
            assert (got == wanted).all()
        assert served.served == 1


def test_a_browser_that_dials_computes_the_same_bits(decoder, stage_of):
    pieces = inputs((7, 1, 1, 3))
    door = Door(["127.0.0.1"], 0, CLUSTER)
    ended = []

    def browser():
        with pytest.raises(PeerError) as end:
            ReferenceTablet(decoder, CONTEXT).serve(dial(door.endpoints[0], TABLET, Deadline(LONG)))
        ended.append(end.value)

    thread = threading.Thread(target=browser)
    thread.start()
    stage = stage_of(door.take, assignment(decoder, "llama", CONTEXT))
    try:
        for got, wanted in zip(remote(stage, 1, pieces), local(decoder, pieces), strict=True):
            assert (got == wanted).all()
    finally:
        stage.close()
        door.close()
        thread.join(LONG)
    assert isinstance(ended[0], PeerLostError)


def test_half_precision_travels_too(decoder, stage_of):
    pieces = inputs((7, 1))
    with listening(ReferenceTablet(decoder, CONTEXT)) as served:
        stage = stage_of(dialler(served.where), assignment(decoder, "llama", CONTEXT, "fp16"))
        found = torch.cat(remote(stage, 1, pieces))
    wanted = torch.cat(local(decoder, pieces))
    assert 0 < (found - wanted).abs().max() <= 0.002 * wanted.abs().max()


def test_the_last_layers_give_the_logits_after_the_last_token(models, stage_of):
    last = load_stage(models("gpt2")[1], LayerRange(2, 4, LAYERS))
    pieces = inputs((5, 1))
    with listening(ReferenceTablet(last, CONTEXT)) as served:
        stage = stage_of(dialler(served.where), assignment(last, "gpt2", CONTEXT))
        found = remote(stage, 9, pieces)
    assert [tuple(one.shape) for one in found] == [(1, VOCABULARY)] * 2
    for got, wanted in zip(found, local(last, pieces), strict=True):
        assert (got == wanted).all()


def test_sessions_are_apart_and_forgotten_ones_are_unknown(decoder, stage_of):
    one, other = inputs((4, 1), seed=1), inputs((6, 1), seed=2)
    with listening(ReferenceTablet(decoder, CONTEXT)) as served:
        stage = stage_of(dialler(served.where), assignment(decoder, "llama", CONTEXT))
        first = [stage.forward(1, one[0], 0)]
        second = [stage.forward(2, other[0], 0)]
        first.append(stage.forward(1, one[1], 4))
        second.append(stage.forward(2, other[1], 6))
        assert (torch.cat(first) == torch.cat(local(decoder, one))).all()
        assert (torch.cat(second) == torch.cat(local(decoder, other))).all()
        stage.forget(1)
        stage.forget(1)
        with pytest.raises(SessionGoneError):
            stage.forward(1, one[1], 5)
        assert stage.forward(2, other[1], 7).shape == (1, 48)
        # From position 0 it begins anew.
        assert (stage.forward(1, one[0], 0) == first[0]).all()


def test_a_position_that_does_not_follow_ends_the_session_alone(decoder, stage_of):
    [piece, token] = inputs((4, 1))
    with listening(ReferenceTablet(decoder, CONTEXT)) as served:
        stage = stage_of(dialler(served.where), assignment(decoder, "llama", CONTEXT))
        stage.forward(1, piece, 0)
        stage.forward(2, piece, 0)
        with pytest.raises(SessionGoneError, match="position 5 after 4 tokens"):
            stage.forward(1, token, 5)
        with pytest.raises(SessionGoneError):
            stage.forward(1, token, 4)
        stage.forward(2, token, 4)
        assert served.served == 1


def test_a_session_that_is_full_is_told(decoder, stage_of):
    [piece, token] = inputs((4, 1))
    with listening(ReferenceTablet(decoder, CONTEXT)) as served:
        stage = stage_of(dialler(served.where), assignment(decoder, "llama", CONTEXT))
        stage.forward(1, piece, 0, capacity=4)
        with pytest.raises(SessionGoneError, match="room for 4"):
            stage.forward(1, token, 4)


def test_after_a_cut_the_session_is_unknown_and_prefilled_again(decoder, stage_of):
    pieces = inputs((5, 1, 1))
    wanted = local(decoder, pieces)
    with listening(ReferenceTablet(decoder, CONTEXT)) as served:
        stage = stage_of(dialler(served.where), assignment(decoder, "llama", CONTEXT))
        stage.forward(1, pieces[0], 0)
        stage.forward(1, pieces[1], 5)
        served.cut()
        # The cut is seen while it waits, or before: in both cases the caller is told, and no wrong numbers come.
        with pytest.raises((PeerLostError, SessionGoneError)):
            stage.forward(1, pieces[2], 6)
        with pytest.raises(SessionGoneError, match="prefill it again"):
            stage.forward(1, pieces[2], 6)
        again = stage.forward(1, torch.cat(pieces[:2]), 0)
        assert (again - torch.cat(wanted[:2])).abs().max() <= 1e-5
        assert (stage.forward(1, pieces[2], 6) - wanted[2]).abs().max() <= 1e-5
        assert served.served == 2


def test_a_page_that_comes_back_takes_the_place_of_its_former_self(decoder):
    door = Door(["127.0.0.1"], 0, CLUSTER)
    try:
        old = dial(door.endpoints[0], TABLET, Deadline(LONG))
        taken = door.take(Deadline(LONG))
        new = dial(door.endpoints[0], TABLET, Deadline(LONG))
        fresh = door.take(Deadline(LONG))
        with pytest.raises(PeerLostError):
            taken.receive(Deadline(LONG))
        new.send(Ping(5), Deadline(LONG))
        assert fresh.receive(Deadline(LONG)) == Ping(5)
        old.close()
        new.close()
    finally:
        door.close()


def test_who_does_not_know_the_secret_gets_nothing(decoder):
    """Neither as a cluster that dials a tablet, nor as a page that dials the cluster."""
    with listening(ReferenceTablet(decoder, CONTEXT)) as served:
        with pytest.raises(HandshakeError, match="did not prove"):
            dial(served.where, STRANGER, Deadline(LONG))
        assert served.served == 0
    door = Door(["127.0.0.1"], 0, CLUSTER)
    try:
        page = Self("tablet", RUN, "ipad", STRANGER.key)
        with pytest.raises(HandshakeError, match="did not prove"):
            dial(door.endpoints[0], page, Deadline(LONG))
        with pytest.raises(DeadlineError, match="no tablet has come"):
            door.take(Deadline(0))
    finally:
        door.close()


def test_a_listener_that_does_not_know_the_secret_is_found_out(decoder):
    """It accepts everybody, and cannot prove itself."""
    from websockets.sync.server import serve

    from smolcluster.tablet.messages import Challenge, Welcome

    def false(connection):
        connection.recv()
        connection.send(encode(Challenge(role="tablet", run=RUN, name="false", nonce="00" * 32)))
        connection.recv()
        connection.send(encode(Welcome(b"\0" * 32)))

    with serve(false, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        from smolcluster.comm.endpoint import Endpoint

        with pytest.raises(HandshakeError, match="did not prove"):
            dial(Endpoint("127.0.0.1", server.socket.getsockname()[1]), CLUSTER, Deadline(LONG))
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("me", "words"),
    [
        (Self("cluster", "another-run", "mini1", KEY), "another run"),
        (Self("tablet", RUN, "ipad2", KEY), "is a tablet too"),
    ],
)
def test_another_run_and_the_wrong_role_are_refused(decoder, me, words):
    with listening(ReferenceTablet(decoder, CONTEXT)) as served:
        with pytest.raises(HandshakeError, match=words):
            dial(served.where, me, Deadline(LONG))
        assert served.served == 0


def test_the_wrong_layers_and_the_wrong_weights_are_refused(models, decoder, stage_of):
    other = load_stage(models("llama")[1], LayerRange(2, 4, LAYERS))
    changed = assignment(decoder, "llama", CONTEXT).model_copy(update={"packages": {FORMAT: "0" * 64}})
    for assign in (assignment(other, "llama", CONTEXT), changed):
        with listening(ReferenceTablet(decoder, CONTEXT)) as served:
            stage = stage_of(dialler(served.where), assign)
            with pytest.raises(HandshakeError, match="this tablet has layers 1:3 as torch"):
                stage.open()


def test_a_tablet_that_says_it_has_something_else_is_refused(decoder, stage_of):
    with pair() as (mine, theirs):
        stage = stage_of(lambda deadline: mine, assignment(decoder, "llama", CONTEXT))

        def tablet():
            theirs.receive(Deadline(LONG))
            theirs.send(Ready(device="d", format="coreml", hash="1" * 64, layers="1:3"), Deadline(LONG))

        thread = threading.Thread(target=tablet)
        thread.start()
        with pytest.raises(HandshakeError, match="load the stage again"):
            stage.open()
        thread.join()
        answer = theirs.receive(Deadline(LONG))
        assert isinstance(answer, Failure)
        assert answer.code is Code.WRONG_STAGE


def ready_by_hand(theirs, assign):
    theirs.receive(Deadline(LONG))
    theirs.send(Ready(device="d", format=FORMAT, hash=assign.packages[FORMAT], layers=assign.layers), Deadline(LONG))


def test_silence_ends_the_wait_and_signs_of_life_prolong_it(decoder, stage_of):
    assign = assignment(decoder, "llama", CONTEXT)
    waits = Waits(LONG, LONG, forward_s=LONG, heartbeat_s=0.05, silence_s=2.0)
    with pair() as (mine, theirs):
        stage = stage_of(lambda deadline: mine, assign, waits)
        pongs, failures = [], []

        def tablet():
            ready_by_hand(theirs, assign)
            while len(pongs) < 3:  # at work, and alive
                message = theirs.receive(Deadline(LONG))
                if isinstance(message, Ping):
                    pongs.append(message.number)
                    theirs.send(Pong(message.number), Deadline(LONG))

        thread = threading.Thread(target=tablet)
        thread.start()
        try:
            stage.forward(1, inputs((2,))[0], 0)
        except PeerError as error:
            failures.append(error)
        thread.join()
        assert isinstance(failures[0], DeadlineError)
        assert "did not answer within 2 s" in str(failures[0])
        assert len(set(pongs)) == 3


def pings_until_the_end(theirs):
    while True:
        assert isinstance(theirs.receive(Deadline(LONG)), Ping)


def test_a_tablet_that_goes_silent_between_tokens_is_found_out(decoder, stage_of):
    assign = assignment(decoder, "llama", CONTEXT)
    with pair() as (mine, theirs):
        stage = stage_of(lambda deadline: mine, assign, Waits(LONG, LONG, LONG, heartbeat_s=0.05, silence_s=1.0))
        thread = threading.Thread(target=ready_by_hand, args=(theirs, assign))
        thread.start()
        stage.open()
        thread.join()
        with pytest.raises(PeerLostError):  # the pulse hangs up: nobody asked for a token
            pings_until_the_end(theirs)


def test_a_tablet_hangs_up_when_the_cluster_is_silent(decoder):
    with listening(ReferenceTablet(decoder, CONTEXT, silence_s=0.5)) as served:
        channel = dial(served.where, CLUSTER, Deadline(LONG))
        with pytest.raises(PeerLostError):
            channel.receive(Deadline(LONG))
        assert isinstance(served.ends[0], DeadlineError)


@pytest.mark.parametrize("junk", [b"ST\x01\x11\x00", b"junk of a stranger", b"ST\x09\x20\0\0\0\0"])
def test_half_a_message_ends_the_connection_with_a_reason(decoder, junk):
    with listening(ReferenceTablet(decoder, CONTEXT)) as served:
        channel = dial(served.where, CLUSTER, Deadline(LONG))
        channel.send(assignment(decoder, "llama", CONTEXT), Deadline(LONG))
        assert isinstance(channel.receive(Deadline(LONG)), Ready)
        channel.send_bytes(junk, Deadline(LONG))
        answer = channel.receive(Deadline(LONG))
        assert isinstance(answer, Failure)
        assert answer.code is (Code.VERSION if junk[2] == 9 else Code.BAD_MESSAGE)
        with pytest.raises(PeerLostError):
            channel.receive(Deadline(LONG))


def test_half_a_frame_is_waited_for_no_longer_than_the_deadline(decoder):
    """A WebSocket frame that announces more than comes."""
    with pair() as (mine, theirs):
        theirs._connection.socket.sendall(b"\x82\x7e\x10\x00" + b"ST\x01")
        with pytest.raises(DeadlineError):
            mine.receive(Deadline(0.3))


def test_a_stranger_may_send_little_and_a_proven_end_no_more_than_the_most(decoder):
    from websockets.sync.client import connect

    with listening(ReferenceTablet(decoder, CONTEXT)) as served:
        stranger = connect(f"ws://{served.where}/tablet", proxy=None, legacy=True)
        stranger.send(b"x" * (MOST_SMALL + 1))
        from websockets.exceptions import ConnectionClosedError

        with pytest.raises(ConnectionClosedError) as end:
            stranger.recv(LONG)
        assert end.value.rcvd.code == 1009
    with pair() as (mine, theirs):
        mine.admit(1000)
        theirs.send(Result(1, 1, 0, np.zeros((10, 48), np.float32)), Deadline(LONG))
        with pytest.raises(ProtocolError, match="too large"):
            mine.receive(Deadline(LONG))


def test_text_is_refused(decoder):
    with pair() as (mine, theirs):
        theirs._connection.send("hello")
        with pytest.raises(ProtocolError, match="binary"):
            mine.receive(Deadline(LONG))


def test_a_tablet_that_does_not_read_holds_nobody_up():
    """Its socket's buffer fills; the send ends with its deadline."""
    from websockets.server import ServerProtocol
    from websockets.sync.client import connect

    with socket.create_server(("127.0.0.1", 0)) as server:
        accepted = []

        def deaf():
            """Upgrades, and reads no more."""
            accepted.append(server.accept()[0])
            protocol = ServerProtocol()
            protocol.receive_data(accepted[0].recv(65536))
            [request] = protocol.events_received()
            protocol.send_response(protocol.accept(request))
            accepted[0].sendall(b"".join(protocol.data_to_send()))

        thread = threading.Thread(target=deaf)
        thread.start()
        port = server.getsockname()[1]
        channel = Channel(connect(f"ws://127.0.0.1:{port}/tablet", proxy=None, ping_interval=None, legacy=True), "it")
        thread.join()
        data = encode(Forward(1, 1, 0, np.zeros((2048, 4096), np.float32)))  # 32 MB
        with pytest.raises(DeadlineError, match="took nothing for 1 s"):
            channel.send_bytes(data, Deadline(1.0))
        accepted[0].close()
        channel.close()


def test_a_late_answer_to_an_earlier_request_is_not_taken_for_this_one(decoder, stage_of):
    assign = assignment(decoder, "llama", CONTEXT)
    with pair() as (mine, theirs):
        stage = stage_of(lambda deadline: mine, assign)

        def tablet():
            ready_by_hand(theirs, assign)
            asked = None
            while asked is None:
                message = theirs.receive(Deadline(LONG))
                asked = message if isinstance(message, Forward) else None
            zeros = np.zeros((2, 48), np.float32)
            theirs.send(Result(asked.request - 1, 1, 0, zeros), Deadline(LONG))
            theirs.send(Result(asked.request, 1, 0, zeros + 7), Deadline(LONG))

        thread = threading.Thread(target=tablet)
        thread.start()
        assert (stage.forward(1, inputs((2,))[0], 0) == 7).all()
        thread.join()


def test_an_answer_of_another_shape_is_an_error(decoder, stage_of):
    assign = assignment(decoder, "llama", CONTEXT)
    with pair() as (mine, theirs):
        stage = stage_of(lambda deadline: mine, assign)

        def tablet():
            ready_by_hand(theirs, assign)
            while not isinstance(message := theirs.receive(Deadline(LONG)), Forward):
                pass
            theirs.send(Result(message.request, 1, 0, np.zeros((3, 48), np.float32)), Deadline(LONG))

        thread = threading.Thread(target=tablet)
        thread.start()
        with pytest.raises(ProtocolError, match=r"\(3, 48\) for 2 tokens"):
            stage.forward(1, inputs((2,))[0], 0)
        thread.join()


def test_closing_wakes_who_waits(decoder, stage_of):
    assign = assignment(decoder, "llama", CONTEXT)
    asked = threading.Event()
    with pair() as (mine, theirs):
        stage = stage_of(lambda deadline: mine, assign)

        def tablet():
            ready_by_hand(theirs, assign)
            while not isinstance(theirs.receive(Deadline(LONG)), Forward):
                pass
            asked.set()

        threads = [threading.Thread(target=tablet), threading.Thread(target=lambda: asked.wait(LONG) and stage.close())]
        for thread in threads:
            thread.start()
        with pytest.raises(PeerLostError):
            stage.forward(1, inputs((2,))[0], 0)
        for thread in threads:
            thread.join()
        with pytest.raises(PeerLostError, match="closed"):
            stage.open()


def test_nobody_there_is_an_error_within_the_deadline(decoder, stage_of):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        from smolcluster.comm.endpoint import Endpoint

        where = Endpoint(*taken.getsockname())
        stage = stage_of(dialler(where), assignment(decoder, "llama", CONTEXT))
        with pytest.raises(PeerLostError, match="cannot be reached"):
            stage.open()


def test_the_door_is_on_no_other_address_than_was_said():
    for everywhere in ("0.0.0.0", "::", ""):
        with pytest.raises(PeerError):
            Door([everywhere], 0, CLUSTER)


def test_a_full_tablet_and_a_session_too_long_are_told(decoder, stage_of, monkeypatch):
    monkeypatch.setattr("smolcluster.tablet.reference.MOST_SESSIONS", 1)
    with listening(ReferenceTablet(decoder, CONTEXT)) as served:
        stage = stage_of(dialler(served.where), assignment(decoder, "llama", CONTEXT))
        [piece] = inputs((2,))
        stage.forward(1, piece, 0)
        with pytest.raises(SessionGoneError, match="not open"):
            stage.forward(2, piece, 0)
        stage.forget(1)
        stage.forward(2, piece, 0)
        with pytest.raises(SessionGoneError, match="not open"):
            stage.forward(2, piece, 0, capacity=CONTEXT + 1)


def test_forget_of_what_is_not_known_is_no_error(decoder):
    with listening(ReferenceTablet(decoder, CONTEXT)) as served:
        channel = dial(served.where, CLUSTER, Deadline(LONG))
        channel.send(assignment(decoder, "llama", CONTEXT), Deadline(LONG))
        channel.receive(Deadline(LONG))
        channel.send(Forget(99), Deadline(LONG))
        channel.send(Open(1, 4), Deadline(LONG))
        channel.send(Ping(3), Deadline(LONG))
        assert channel.receive(Deadline(LONG)) == Pong(3)
        channel.close()
