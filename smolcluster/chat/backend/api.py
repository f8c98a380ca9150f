"""The HTTP API of a served model, as a FastAPI application.

    /chat  /ws/chat  /answers/...  /links  /stages  /tablets ...  our own
    /v1/models  /v1/completions  /v1/chat/completions            OpenAI's
    /                                                            the page

All of it is under /api too, which is what a page of the same origin uses. ARCHITECTURE.md has the life of a request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from smolcluster import __version__
from smolcluster.chat.backend.chat_routes import chat_routes
from smolcluster.chat.backend.door import Door
from smolcluster.chat.backend.guard import Guard
from smolcluster.chat.backend.link_routes import link_routes
from smolcluster.chat.backend.note import keep_note
from smolcluster.chat.backend.openai_routes import openai_routes
from smolcluster.chat.backend.openapi import ERRORS, describe
from smolcluster.chat.backend.page import page_routes
from smolcluster.chat.backend.refusals import on_http_error, on_invalid
from smolcluster.chat.backend.service import Service
from smolcluster.chat.backend.settings import ApiSettings
from smolcluster.chat.backend.state_routes import state_routes
from smolcluster.chat.backend.tablet_routes import tablet_routes
from smolcluster.chat.backend.websocket import socket_routes
from smolcluster.infer.head import Head

# Further endpoints that share what ours share.
Routes = Callable[[Service], APIRouter]


def create_app(head: Head, settings: ApiSettings, *more: Routes) -> FastAPI:
    """The application. `app.state.service` is what its endpoints share. The head stays the caller's to close."""
    service = Service(head, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        note = asyncio.create_task(keep_note(service, settings.note_file)) if settings.note_file is not None else None
        try:
            yield
        finally:
            if note is not None:
                note.cancel()
                with suppress(asyncio.CancelledError):
                    await note
            await service.kept.close()
            service.close()
            service.open_threads()

    app = FastAPI(
        title="smolcluster",
        version=__version__,
        description=f"{(__doc__ or '').splitlines()[0]} Errors have OpenAI's form.",
        # Their pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses=ERRORS,
        exception_handlers={HTTPException: on_http_error, RequestValidationError: on_invalid},
        redirect_slashes=False,
    )
    app.state.service = service
    for routes in (chat_routes, openai_routes, state_routes, link_routes, tablet_routes, socket_routes, *more):
        app.include_router(routes(service))
        app.include_router(routes(service), prefix="/api", include_in_schema=False)
    app.include_router(page_routes())
    describe(app)
    app.add_middleware(Guard, service=service, door=Door(settings))
    return app
