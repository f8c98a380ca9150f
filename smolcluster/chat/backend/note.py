"""serving.json, about once a second and at each change: what the playbook follows."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from smolcluster.chat.backend.refusals import ApiError
from smolcluster.chat.backend.service import Service
from smolcluster.errors import SmolError
from smolcluster.runtime.runfolder import ServingNote, write_atomic

log = logging.getLogger("smolcluster.chat")
_EVERY_S = 1.0
# How long a write may take that is under way when the API is stopped.
_WRITTEN_S = 5.0


async def keep_note(service: Service, path: Path) -> None:
    """Write it until cancelled, and then once more: closed.

    A disk that refuses it once may take it again: the log tells when that changes.
    """
    refused, note = "", ServingNote(time=0, state="closed")
    writing: asyncio.Future[None] | None = None
    try:
        while True:
            before, note = note, await noted(service)
            if not note.layers:
                note = note.model_copy(update={"layers": before.layers})
            if note.state != before.state:
                log.info("serving is %s%s", note.state, f": {note.reason}" if note.reason else "")
            try:
                writing = asyncio.ensure_future(service.call(partial(_write, path, note)))
                await asyncio.shield(writing)
                refused = ""
            except OSError as error:
                if str(error) != refused:
                    refused = str(error)
                    log.error("%s cannot be written: %s", path, refused)
            await asyncio.sleep(_EVERY_S)
    finally:
        if writing is not None:  # else it could come to lie over the last one
            with suppress(OSError):  # TimeoutError is one
                await asyncio.wait_for(writing, _WRITTEN_S)
        with suppress(OSError):
            last = {"time": time.time(), "state": "closed", "reason": "the API was stopped", "active": 0, "waiting": 0}
            _write(path, note.model_copy(update=last))


async def noted(service: Service) -> ServingNote:
    """How it goes now."""
    health, accounts = await service.health(), service.accounts
    stages = health.stages if health.state == "ready" else ()
    layers = {stage.rank: f"{stage.start}:{stage.stop}" for stage in stages if stage.alive}
    strip = service.watch.answer(health, 0.0).stages
    about = None
    if health.state == "ready":
        with suppress(SmolError, ApiError):  # it may have been lost since
            about = await service.about()
    return ServingNote(
        time=time.time(),
        state=health.state,
        reason=health.reason,
        urls=service.settings.urls,
        layers=layers,
        ms_per_token={stage.rank: stage.ms_per_token for stage in strip if stage.ms_per_token is not None},
        sessions={stage.rank: stage.sessions for stage in stages if stage.alive},
        model=about.name if about is not None else "",
        chat=about is not None and about.chat_template is not None,
        active=health.active,
        waiting=health.waiting,
        requests=accounts.requests,
        failed=accounts.failed,
        tokens=accounts.tokens,
        tokens_per_s=accounts.tokens_per_s(),
    )


def _write(path: Path, note: ServingNote) -> None:
    """Whole, or not at all."""
    write_atomic(path, note.model_dump_json(by_alias=True, indent=2) + "\n")
