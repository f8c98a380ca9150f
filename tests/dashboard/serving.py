"""The dashboard's endpoints and page on a real socket, with the headers of the real server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI
from starlette.exceptions import HTTPException

from smolcluster.chat.backend import guard
from smolcluster.chat.backend.page import page_routes
from smolcluster.chat.backend.refusals import on_http_error
from smolcluster.chat.backend.serve import bind
from smolcluster.chat.backend.settings import ApiSettings
from smolcluster.dashboard.routes import dashboard_routes

PATIENCE_S = 60.0


@contextmanager
def dashboard(reading, port: int = 0) -> Iterator[str]:
    """The page's address. Inside it answers; it can be started again on the same port."""
    leaving = threading.Event()
    app = FastAPI(exception_handlers={HTTPException: on_http_error})
    app.include_router(dashboard_routes(reading, ApiSettings(), leaving.is_set), prefix="/api")
    app.include_router(page_routes())
    bound = bind(("127.0.0.1",), {"page": port})["page"]
    server = uvicorn.Server(
        uvicorn.Config(_with_headers(app), log_level="error", access_log=False, timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": bound}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{bound[0].getsockname()[1]}/dashboard.html"
    finally:
        leaving.set()
        server.should_exit = True
        thread.join(PATIENCE_S)
        _close(bound)


def _close(bound: list[socket.socket]) -> None:
    for opened in bound:
        opened.close()


def _with_headers(app):
    async def served(scope, receive, send):
        async def answer(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *guard._HEADERS]
            await send(message)

        await app(scope, receive, answer)

    return served
