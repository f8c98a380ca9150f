"""Silence, half a message and another end that does not read: an error within the deadline."""

import socket
import threading

import numpy as np
import pytest

from smolcluster.comm.clock import Deadline
from smolcluster.errors import DeadlineError, PeerError, PeerLostError, ProtocolError
from smolcluster.tablet.channel import Channel
from smolcluster.tablet.door import dial
from smolcluster.tablet.messages import Code, Failure, Forward, Ping, Pong, Ready, Result, encode
from smolcluster.tablet.reference import ReferenceTablet, assignment
from smolcluster.tablet.remote import Waits
from tests.infer.infer_models import CONTEXT
from tests.tablet.tablets import CLUSTER, LONG, inputs, listening, pair, ready_by_hand


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


def test_a_connection_that_comes_while_it_is_closed_is_not_waited_on(decoder, stage_of):
    assign = assignment(decoder, "llama", CONTEXT)
    with pair() as (mine, theirs):
        dialled, closing = threading.Event(), threading.Event()

        def connect(deadline):
            dialled.set()
            assert closing.wait(deadline.left())
            return mine

        stage = stage_of(connect, assign)

        def close():
            dialled.wait(LONG)
            stage._closing.set()  # as far as `close` gets before there is a connection to cut
            closing.set()

        thread = threading.Thread(target=close)
        thread.start()
        with pytest.raises(PeerLostError, match="closed"):
            stage.open()
        thread.join()
        with pytest.raises(PeerLostError):
            theirs.receive(Deadline(LONG))  # and no ASSIGN came


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
