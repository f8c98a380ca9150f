"""Who comes in, and who does not: both ends prove that they know the key, on an address that was said."""

import socket
import threading

import numpy as np
import pytest

from smolcluster.comm.clock import Deadline
from smolcluster.comm.endpoint import Endpoint
from smolcluster.errors import DeadlineError, HandshakeError, PeerError, PeerLostError, ProtocolError
from smolcluster.tablet.door import Door, dial
from smolcluster.tablet.greeting import Self, tablet_key
from smolcluster.tablet.messages import MOST_SMALL, Challenge, Ping, Result, Welcome, encode
from smolcluster.tablet.reference import ReferenceTablet, assignment
from tests.infer.infer_models import CONTEXT
from tests.tablet.tablets import CLUSTER, KEY, LONG, RUN, TABLET, dialler, listening, pair

STRANGER = Self("cluster", RUN, "mini1", tablet_key(b"another secret"))


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

    def false(connection):
        connection.recv()
        connection.send(encode(Challenge(role="tablet", run=RUN, name="false", nonce="00" * 32)))
        connection.recv()
        connection.send(encode(Welcome(b"\0" * 32)))

    with serve(false, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
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


def test_nobody_there_is_an_error_within_the_deadline(decoder, stage_of):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        where = Endpoint(*taken.getsockname())
        stage = stage_of(dialler(where), assignment(decoder, "llama", CONTEXT))
        with pytest.raises(PeerLostError, match="cannot be reached"):
            stage.open()


def test_the_door_is_on_no_other_address_than_was_said():
    for everywhere in ("0.0.0.0", "::", ""):
        with pytest.raises(PeerError):
            Door([everywhere], 0, CLUSTER)
