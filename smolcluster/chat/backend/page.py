"""The chat page: what npm has built from ../frontend into ../page, which ships in the package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response

FOLDER = Path(__file__).parents[1] / "page"
_KINDS = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}
_YEAR_S = 365 * 24 * 3600


@dataclass(frozen=True)
class PageFile:
    """A file of the page. One whose name has a hash of what is in it never changes."""

    content: bytes
    kind: str
    hashed: bool

    def response(self, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
        """It, kept by browsers as long as it is true."""
        keep = f"public, max-age={_YEAR_S}, immutable" if self.hashed else "no-cache"
        return Response(self.content, status, {"Cache-Control": keep, **(headers or {})}, self.kind)


def read_page(folder: Path = FOLDER) -> dict[str, PageFile]:
    """All its files by their paths, "/" for the first one. They are few and small, so they stay in memory."""
    files = {
        f"/{path.relative_to(folder).as_posix()}": PageFile(
            path.read_bytes(), _KINDS[path.suffix], path.parent.name == "assets"
        )
        for path in sorted(folder.rglob("*"))
        if path.suffix in _KINDS
    }
    return {"/" if path == "/index.html" else path: file for path, file in files.items()}


PAGE = read_page()


def page_routes() -> APIRouter:
    """A route for each file: there is no way from a path to any other file of this machine."""
    router = APIRouter()
    for path, file in PAGE.items():
        router.add_api_route(path, file.response, methods=["GET"], response_model=None, include_in_schema=False)
    return router
