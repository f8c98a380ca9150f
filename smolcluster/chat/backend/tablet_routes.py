"""GET /tablets: how it stands with the tablets of a served model, and what lets one in while it is waited for."""

from __future__ import annotations

from urllib.parse import urlsplit

from fastapi import APIRouter, Response
from pydantic import SecretBytes

from smolcluster.chat.backend.answers import TabletAnswer, TabletsAnswer
from smolcluster.chat.backend.service import Service
from smolcluster.comm.route import is_loopback
from smolcluster.runtime.qr import qr_svg
from smolcluster.runtime.tabletnote import TabletNote, tablet_link


def tablet_routes(service: Service) -> APIRouter:
    """The endpoint."""
    router = APIRouter(tags=["links"])

    @router.get("/tablets")
    async def tablets(response: Response) -> TabletsAnswer:
        """The tablets that have layers. While one is waited for, its link, which holds a key: it is in no log."""
        response.headers["Cache-Control"] = "no-store"
        now = await service.health()
        return TabletsAnswer(tablets=[answer_of(note, service.settings.tablet_key) for note in now.tablets])

    return router


def answer_of(note: TabletNote, key: SecretBytes | None) -> TabletAnswer:
    """With its link, where it is waited for and the key is known."""
    url = tablet_link(note, key.get_secret_value()) if note.state == "waiting" and key is not None else None
    # Another machine cannot use a link to this one.
    shown = url is not None and not is_loopback(urlsplit(url).hostname or "")
    return TabletAnswer(
        node=note.tablet,
        app=note.app,
        layers=note.layers,
        state=note.state,
        left_s=note.left_s,
        came=note.came,
        reason=note.reason,
        device=note.device,
        url=url,
        qr_svg=qr_svg(url) if url is not None and shown else None,
    )
