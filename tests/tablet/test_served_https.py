"""A served run whose cluster has an authority: the tablets' page comes by HTTPS, and by nothing else."""

from __future__ import annotations

import socket
import ssl
import threading
from urllib.parse import urlsplit

import httpx2
import pytest

from smolcluster.certs.checking import der_of
from smolcluster.comm.clock import Deadline
from smolcluster.comm.endpoint import Endpoint
from smolcluster.errors import PeerError
from smolcluster.infer.request import Request
from smolcluster.runtime.tabletnote import tablet_key, tablet_link
from smolcluster.tablet.door import dial
from smolcluster.tablet.greeting import Self
from smolcluster.tablet.play import play, read_link
from smolcluster.tablet.web import SOCKET
from tests.certs.cluster import Certified
from tests.infer.gates import wait_for
from tests.infer.infer_models import generate
from tests.infer.served_run import model_folder, served
from tests.infer.test_engine import CUTS, GREEDY, collect, prompt_of
from tests.tablet.tablets import LONG
from tests.tablet.test_tablet_rank import ALL, SECRET, told, with_tablet

pytestmark = pytest.mark.timeout(300)


@pytest.mark.slow
def test_the_page_has_its_node_s_certificate_and_no_other_way_in(stages, models, tmp_path):
    model, source = models("llama")
    folder = model_folder(source, tmp_path / "model")
    home = Certified(tmp_path / "home" / ".smolcluster")
    node = home.add("n1", "127.0.0.1")
    plan = with_tablet(tls=True).model_copy(update={"ca": home.fingerprint})
    trusting = ssl.create_default_context(cafile=str(node.ca))
    with served(stages, folder, tmp_path, CUTS, plan=plan, certificates=home.path) as (run, client):
        note = told(run, lambda note: note.state == "waiting")
        page = urlsplit(note.address)
        assert (page.scheme, page.path) == ("https", "/tablet")
        assert tablet_link(note, tablet_key(SECRET)).startswith("https://")
        where = Endpoint(page.hostname or "", page.port or 0)
        with (
            socket.create_connection((where.host, where.port), LONG) as opened,
            trusting.wrap_socket(opened, server_hostname=where.host) as shown,
        ):
            assert shown.getpeercert(binary_form=True) == der_of(node.certificate)
        with httpx2.Client(verify=trusting, timeout=LONG) as browser:
            assert 'name="smolcluster-run" content="served"' in browser.get(note.address).text

        # Without TLS, or without the authority, whoever has the key gets nothing.
        tablet = Self("tablet", "served", "ipad", tablet_key(SECRET))
        for tls, why in ((None, "cannot be reached"), (ssl.create_default_context(), "CERTIFICATE_VERIFY_FAILED")):
            with pytest.raises(PeerError, match=why):
                dial(where, tablet, Deadline(LONG), tls, SOCKET)
        with pytest.raises(httpx2.TransportError):
            httpx2.get(note.address.replace("https", "http"), timeout=LONG)

        # The tablet in Python is told whom to trust.
        over = threading.Event()
        link = read_link(tablet_link(note, tablet_key(SECRET)))
        player = threading.Thread(target=play, args=(link, None, tmp_path / "cache", over, node.ca))
        player.start()
        try:
            wait_for(client, "ready")
            assert told(run, lambda note: note.state == "connected").format == "onnx"
            tokens, _, _ = collect(client.submit(Request(prompt_of(9), 20, GREEDY, ignore_end=True)))
            assert tokens == generate(model, list(prompt_of(9)), 20)
        finally:
            over.set()
            run.stop(*ALL)
            player.join(LONG)
        assert not player.is_alive()
