"""POST /links: somebody who is in lets another device in, a phone above all."""

from __future__ import annotations

from urllib.parse import urlsplit

from fastapi import APIRouter, Request

from smolcluster.chat.backend.answers import LinkAnswer
from smolcluster.chat.backend.openapi import NO_LINK
from smolcluster.chat.backend.refusals import ApiError
from smolcluster.chat.backend.service import Service
from smolcluster.chat.backend.settings import ApiSettings
from smolcluster.comm.endpoint import Endpoint
from smolcluster.comm.route import is_loopback
from smolcluster.runtime.onetime import LINK_S
from smolcluster.runtime.qr import qr_svg


def link_routes(service: Service) -> APIRouter:
    """The endpoint."""
    router = APIRouter(tags=["links"])

    @router.post("/links", responses=NO_LINK)
    async def make_link(request: Request) -> LinkAnswer:
        """A link to the page that lets one browser in, once, within its time; and its QR code."""
        if service.links is None:
            raise ApiError(
                409,
                "this server listens on its own machine alone, where no key is needed, and another device cannot reach "
                "it: set web_interface.listen to an address of that machine's and serve again",
                code="only_here",
            )
        base = reached(request.headers.get("host", ""), request.url.scheme, service.settings)
        url = f"{base}/?key={service.links.make()}"
        return LinkAnswer(url=url, qr_svg=qr_svg(url), expires_s=LINK_S)

    return router


def reached(host: str, scheme: str, settings: ApiSettings) -> str:
    """How another device reaches this server: as this client did, unless by a name that only its own machine knows."""
    try:
        asked = urlsplit(f"//{host}")
        name, port = asked.hostname or "", asked.port
    except ValueError:
        name, port = "", None
    beyond = [address for address in settings.listen if not is_loopback(address)]
    if beyond and (not name or is_loopback(name)):
        page = urlsplit(settings.urls.get("page", "")).port
        return f"{scheme}://{Endpoint(beyond[0], page or port or 80)}"
    return f"{scheme}://{host}"
