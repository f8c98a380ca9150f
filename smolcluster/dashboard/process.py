"""The dashboard's own process: on this machine alone, until it is asked to end or whom it belongs to has ended.

Its key is made from the run's secret, so that a browser which was let in once is still in after the process was started
again. Whoever may read the run's folder has it anyway. Which links were used is remembered there, by their numbers.
"""

from __future__ import annotations

import errno
import hmac
import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import SecretStr

from smolcluster.chat.backend.serve import Serving
from smolcluster.chat.backend.settings import ApiSettings
from smolcluster.comm.endpoint import Endpoint, listen
from smolcluster.dashboard.app import create_dashboard
from smolcluster.dashboard.reading import Reading
from smolcluster.errors import ConfigError, PeerError, Problem, SmolError
from smolcluster.jobs.identity import ProcessId, alive
from smolcluster.runtime.onetime import make_onetime
from smolcluster.runtime.runfolder import RunFolder

log = logging.getLogger("smolcluster.dashboard")
HOST = "127.0.0.1"
_LOOK_S = 0.5


def serve_dashboard(
    folder: RunFolder,
    port: int,
    told: Callable[[str], None],
    stop: threading.Event,
    belongs_to: ProcessId | None = None,
    can_stop: bool = True,
) -> None:
    """Serve until `stop`, or until the process it belongs to has ended. `told` hears the link that lets a browser in.

    ConfigError: the port is taken. SmolError: the server broke.
    """
    key = key_of(folder)
    bound = {"page": _listen(port)}
    url = f"http://{Endpoint(*bound['page'][0].getsockname()[:2])}"
    settings = ApiSettings(key=SecretStr(key), urls={"page": url}, links_file=folder.dashboard_links)

    def attended() -> bool:
        return belongs_to is not None and alive(belongs_to)

    app = create_dashboard(Reading(folder, "wish" if can_stop else None, attended), settings)
    with Serving(app, bound) as serving:
        told(f"{url}/?key={make_onetime(key, time.time())}")
        while not stop.wait(_LOOK_S):
            if not serving.alive:
                raise SmolError("the dashboard ended by itself; its log says why")
            if belongs_to is not None and not alive(belongs_to):
                log.info("the playbook has ended, and so does its dashboard")
                return


def key_of(folder: RunFolder) -> str:
    """The key of a run's dashboard. A folder that was copied without its secret has another one each time."""
    try:
        secret = (folder.path / "secret").read_bytes().strip()
    except OSError:
        secret = b""
    return hmac.digest(secret, b"smolcluster dashboard", "sha256").hex() if secret else secrets.token_hex(32)


def _listen(port: int) -> list[socket.socket]:
    try:
        return listen((HOST,), port)
    except PeerError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE:
            fix = f"end what holds it, or take another port: --port {port + 1}, or none for any free one"
            raise ConfigError([Problem("", 0, "--port", f"port {port} is in use on {HOST}", fix)]) from error
        raise


def is_over(path: Path) -> bool:
    """Whether nobody is at the run any more: there is nothing to stop."""
    return Reading(RunFolder(path)).state().over
