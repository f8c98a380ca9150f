"""`python -m smolcluster link http://192.168.1.20:5050`: another one-time link to a served model's page, with its code.

The key is read from the run's folder: it belongs on no command line.
"""

from __future__ import annotations

import json
import urllib.error
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

import typer

from smolcluster.certs.checking import trusting_context
from smolcluster.errors import InputError, PeerLostError, Problem

_ANSWER_S = 30.0
_MOST_BYTES = 1 << 20
_WRONG_KEY = 401


def link(
    address: Annotated[str, typer.Argument(help="Of the page or the API, as inference.yml printed it.")],
    run: Annotated[Path, typer.Option(help="The run's folder on the machine that the playbook ran on.")] = Path(
        "runs/latest"
    ),
) -> None:
    """Print a link to the page at ADDRESS that lets one browser in, once, and its QR code for a phone."""
    from smolcluster.observe.serving_lines import link_lines
    from smolcluster.runtime.runfolder import run_at

    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise InputError([Problem("", 0, "ADDRESS", f"{address!r} is no address", "as http://192.168.1.20:5050")])
    file = run_at(run) / "api_key"
    try:
        key = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not ASCII text"
        fix = (
            "give the folder of the run that serves there: --run runs/NAME; a model served on loopback asks for no key"
        )
        raise InputError([Problem(str(file), 0, "", f"the API's key cannot be read: {why}", fix)]) from error
    for line in link_lines(_made(f"{parts.scheme}://{parts.netloc}/links", key, file)):
        typer.echo(line)


def _made(url: str, key: str, file: Path) -> str:
    """A new link. A proxy would get the key: none is asked."""
    asked = Request(url, b"", {"Authorization": f"Bearer {key}"}, method="POST")  # noqa: S310  the scheme was looked at
    opener = build_opener(ProxyHandler({}), HTTPSHandler(context=trusting_context()))
    try:
        with opener.open(asked, timeout=_ANSWER_S) as answer:
            return str(json.loads(answer.read(_MOST_BYTES))["url"])
    except urllib.error.HTTPError as error:
        with error:
            if error.code == _WRONG_KEY:
                fix = "give the folder of the run that serves there: --run runs/NAME"
                raise InputError([Problem(str(file), 0, "", f"{url} has another key", fix)]) from error
            raise PeerLostError(f"{url} answered {error.code}: {_message(error.read(_MOST_BYTES))}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PeerLostError(f"{url} does not answer as a served model does: {error}") from error


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return "nothing that can be read"
