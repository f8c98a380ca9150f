"""The dashboard as an application of its own: its endpoints, its page, and the door in front of them."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from smolcluster import __version__
from smolcluster.chat.backend.accounts import Accounts
from smolcluster.chat.backend.door import Door
from smolcluster.chat.backend.guard import Guard
from smolcluster.chat.backend.links import Links
from smolcluster.chat.backend.openapi import ERRORS, describe
from smolcluster.chat.backend.page import PAGE, PageFile
from smolcluster.chat.backend.refusals import on_http_error, on_invalid
from smolcluster.chat.backend.settings import ApiSettings
from smolcluster.dashboard.reading import Reading
from smolcluster.dashboard.routes import dashboard_routes

# Another server of this machine has its cookies at the same name, whatever its port: a served model's must stay.
COOKIE = "smolcluster_dashboard"
# Where the page lies in what npm has built; before it is, the chat page stands in.
PAGE_PATH = "/dashboard.html"


class Dashboard:
    """What stands around the endpoints: settings, links that let a browser in, whether the server leaves."""

    def __init__(self, settings: ApiSettings) -> None:
        self.settings = settings
        self.accounts = Accounts()
        key = settings.key
        self.links = Links(key.get_secret_value(), settings.links_file) if key is not None else None
        self.leaving = False

    def leave(self) -> None:
        """Streams end."""
        self.leaving = True


def create_dashboard(reading: Reading, settings: ApiSettings) -> FastAPI:
    """The application. `app.state.service` is what stands around its endpoints."""
    dashboard = Dashboard(settings)
    app = FastAPI(
        title="smolcluster dashboard",
        version=__version__,
        description="A run as it goes, or went. Errors have OpenAI's form.",
        docs_url=None,
        redoc_url=None,
        responses=ERRORS,
        exception_handlers={HTTPException: on_http_error, RequestValidationError: on_invalid},
        redirect_slashes=False,
    )
    app.state.service = dashboard
    app.include_router(dashboard_routes(reading, settings, lambda: dashboard.leaving))
    app.include_router(
        dashboard_routes(reading, settings, lambda: dashboard.leaving), prefix="/api", include_in_schema=False
    )
    page = own_page()
    app.include_router(_page_routes(page))
    describe(app)
    app.add_middleware(Guard, service=dashboard, door=Door(settings, COOKIE), page=page)
    return app


def own_page() -> dict[str, PageFile]:
    """The files of the page, its own at "/"."""
    return {**PAGE, "/": PAGE[PAGE_PATH]}


def _page_routes(page: Mapping[str, PageFile]) -> APIRouter:
    router = APIRouter()
    for path, file in page.items():
        router.add_api_route(path, file.response, methods=["GET"], response_model=None, include_in_schema=False)
    return router
