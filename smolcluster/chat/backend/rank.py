"""The API's rank of a served model: listens, finds the head, serves until it is asked to stop."""

from __future__ import annotations

import logging
import ssl
from contextlib import closing
from pathlib import Path

from pydantic import SecretBytes, SecretStr

from smolcluster.certs.checking import browser_context, check_node
from smolcluster.certs.places import NodeFolder
from smolcluster.chat.backend.api import Routes, create_app
from smolcluster.chat.backend.serve import Serving, bind, close, urls
from smolcluster.chat.backend.settings import SHORTEST_KEY, ApiSettings
from smolcluster.comm.route import is_loopback
from smolcluster.errors import ConfigError, InputError, Problem, SmolError
from smolcluster.infer.client import open_head
from smolcluster.infer.group import secret_of
from smolcluster.plan.types import ApiPlan, NodeConfig, RankPlan, ServePlan
from smolcluster.runtime.process import Stop
from smolcluster.runtime.runfolder import RunFolder
from smolcluster.runtime.tabletnote import tablet_key

log = logging.getLogger("smolcluster.chat")
# How often the rank looks whether the API still lives: nothing announces its end.
_LOOK_S = 0.2


def run_api(config: NodeConfig, plan: ServePlan, me: RankPlan, stop: Stop, *more: Routes) -> None:
    """Serve until `stop`, `more` beside the API. It answers before the head is there, and says that it is starting.

    ConfigError: a port that is taken, no key or certificate where one is needed, no secret. SmolError: the API broke.
    """
    folder = RunFolder(Path(config.run_dir))
    key = read_key(config, plan.api)
    tablets = SecretBytes(tablet_key(secret_of(config))) if plan.tablets else None
    tls = read_tls(config, plan, me) if plan.api.tls else None
    bound = bind(plan.api.listen, {"api": plan.api.api_port, "page": plan.api.frontend_port})
    try:
        head = open_head(config, plan, me)
    except BaseException:
        close(bound)
        raise
    settings = ApiSettings(
        listen=plan.api.listen,
        key=key,
        request_s=plan.serve.request_timeout_s,
        resume_s=plan.serve.resume_s,
        requests_file=folder.requests(me.node, me.rank),
        note_file=folder.serving(me.node, me.rank),
        links_file=folder.links_used(me.node, me.rank),
        tablet_key=tablets,
        urls=urls(bound, tls is not None),
    )
    folder.rank(me.node, me.rank).mkdir(parents=True, exist_ok=True)
    with closing(head), Serving(create_app(head, settings, *more), bound, tls=tls) as serving:
        log.info("the API is on %s, the page on %s", settings.urls["api"], settings.urls["page"])
        while not stop.wait(_LOOK_S):
            if not serving.alive:
                raise SmolError("the API ended by itself; the log says why")


def read_tls(config: NodeConfig, plan: ServePlan, me: RankPlan) -> ssl.SSLContext:
    """HTTPS with this node's certificate. InputError where it has none that a browser could accept."""
    if config.certificates is None:
        what = f"the API speaks HTTPS, and node.yaml names no certificates of {me.node}"
        raise InputError([Problem("node.yaml", 0, "certificates", what, "run the playbook again")])
    folder = NodeFolder(Path(config.certificates))
    check_node(folder, me.node, plan.ca)
    return browser_context(folder)


def read_key(config: NodeConfig, api: ApiPlan) -> SecretStr | None:
    """The API's key; None where none is asked for. ConfigError if it is missing, unreadable, or could be guessed."""
    fix = "run the playbook again: it makes one"
    if config.api_key_file is None:
        if all(is_loopback(host) for host in api.listen):
            return None
        what = f"the API listens on {', '.join(api.listen)}, beyond this machine, and has no key"
        raise ConfigError([Problem("node.yaml", 0, "api_key_file", what, fix)])
    try:
        key = Path(config.api_key_file).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        what = f"the API's key cannot be read: {getattr(error, 'strerror', None) or 'it is not ASCII text'}"
        raise ConfigError([Problem(config.api_key_file, 0, "api_key_file", what, fix)]) from error
    if len(key) < SHORTEST_KEY or not key.isprintable() or " " in key:
        what = f"a key is one word of at least {SHORTEST_KEY} characters"
        raise ConfigError([Problem(config.api_key_file, 0, "api_key_file", what, fix)])
    return SecretStr(key)
