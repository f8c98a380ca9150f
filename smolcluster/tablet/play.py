"""`python -m smolcluster.tablet.play`: be a tablet of a run, to try without one. It reads the tablet's link from stdin.

    browser's link   dials as the page would, fetches the ONNX package, computes with onnxruntime
    app's link       listens as the app would, and computes with torch: --model names the folder that is served

A page that comes by HTTPS has a certificate of the cluster's own authority: --ca names that one's, unless this machine
is the controller, which has it.

The link holds the key of the run's tablets, so it is no argument: whoever lists processes could read those.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from urllib.parse import parse_qs, urlsplit

from smolcluster.certs.checking import trusting_context
from smolcluster.comm.clock import Deadline
from smolcluster.comm.endpoint import Endpoint
from smolcluster.errors import DeadlineError, InputError, PeerError, Problem, SmolError
from smolcluster.models.partition import LayerRange
from smolcluster.models.stage_weights import load_stage
from smolcluster.spec.shape import read_shape
from smolcluster.tablet.channel import Channel
from smolcluster.tablet.computing import Layers, TorchLayers
from smolcluster.tablet.door import Door, dial
from smolcluster.tablet.greeting import Self
from smolcluster.tablet.messages import Assign
from smolcluster.tablet.reference import OnnxTablet, Tablet
from smolcluster.tablet.web import SOCKET

log = logging.getLogger("smolcluster.tablet")
_LINK = "the link that the run printed for its tablet"
# What a link means that names no port; an app's names one.
_PORTS = {"http": 80, "https": 443, "smolcluster": 0}
_PAUSE_S, _ATTEMPT_S = 0.5, 5.0


@dataclass(frozen=True)
class Link:
    """What a tablet is given. `app`: it is to listen there, else to dial; `secure`: by TLS."""

    app: bool
    secure: bool
    where: Endpoint
    me: Self

    def __repr__(self) -> str:
        return f"Link({self.where})"


def read_link(text: str) -> Link:
    """The tablet's link. InputError, which does not repeat it."""
    parts = urlsplit(text.strip())
    said = {name: values[0] for name, values in parse_qs(parts.fragment).items()}
    try:
        key = bytes.fromhex(said["key"])
        where = Endpoint(parts.hostname or "", parts.port or _PORTS[parts.scheme])
        if len(key) != 32 or not parts.hostname or not where.port:
            raise ValueError
        me = Self("tablet", said["run"], "python", key)
        return Link(parts.scheme == "smolcluster", parts.scheme == "https", where, me)
    except (KeyError, ValueError):
        raise InputError([Problem("stdin", 0, "", "is no tablet's link", f"paste {_LINK}, all of it")]) from None


def play(link: Link, model: Path | None, cache: Path, over: threading.Event, ca: Path | None = None) -> None:
    """Serve one connection after the other until `over`. InputError: an app's link, and no model; a `ca` that is no
    authority's certificate.
    """
    if link.app:
        if model is None:
            what = "an app's layers are computed with torch here, and no model was named"
            raise InputError([Problem("", 0, "--model", what, "name the folder that is served")])
        door = Door((link.where.host,), link.where.port, link.me)
        try:
            _serve(door.take, Tablet(_torch(model), "Python, torch"), over)
        finally:
            door.close()
    else:
        tls = trusting_context(ca) if link.secure else None
        _serve(lambda deadline: dial(link.where, link.me, deadline, tls, SOCKET), OnnxTablet(cache), over)


def _torch(model: Path) -> Callable[[Channel, Assign], Callable[[], Layers]]:
    def fetch(_: Channel, assign: Assign) -> Callable[[], Layers]:
        start, stop = (int(part) for part in assign.layers.split(":"))
        part = LayerRange(start, stop, read_shape(model).layers)
        return lambda: TorchLayers(load_stage(model, part), assign.context)

    return fetch


def _serve(connect: Callable[[Deadline], Channel], tablet: Tablet, over: threading.Event) -> None:
    told = ""
    while not over.is_set():
        try:
            channel = connect(Deadline(_ATTEMPT_S))
        except DeadlineError:
            continue
        except PeerError as error:
            if str(error) != told:  # twice a second nobody wants to read it
                told = str(error)
                log.info("%s", told)
            over.wait(_PAUSE_S)
            continue
        told = ""
        log.info("connected to %s", channel.who)
        try:
            tablet.serve(channel)
        except PeerError as error:
            log.info("%s", error)
        over.wait(_PAUSE_S)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m smolcluster.tablet.play", description=__doc__)
    parser.add_argument("--model", type=Path, help="for an app's link: the folder of the model that is served")
    parser.add_argument("--ca", type=Path, help="for https: the cluster's authority, ca.pem of the controller")
    parser.add_argument("--cache", type=Path, default=Path(".cache/tablet-played"), help="where packages are kept")
    given = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(message)s")
    over = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        if over.is_set():
            raise KeyboardInterrupt
        over.set()
        print("ending after this connection; again: at once", flush=True)

    signal.signal(signal.SIGINT, end)
    try:
        if sys.stdin.isatty():
            print(f"Paste {_LINK}:", flush=True)
        play(read_link(sys.stdin.readline()), given.model, given.cache.absolute(), over, given.ca)
    except SmolError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
