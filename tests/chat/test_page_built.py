"""The page as it ships: what is built, how it is served, that its types are the API's. No browser, no Node."""

import gzip
import json
import re
from pathlib import Path

from smolcluster.chat.backend.__main__ import document
from smolcluster.chat.backend.page import FOLDER, PAGE

FRONTEND = Path(__file__).resolve().parents[2] / "smolcluster" / "chat" / "frontend"
MOST_JS_BYTES = 120_000


def test_the_page_is_small():
    scripts = sorted(FOLDER.rglob("*.js"))
    assert scripts
    assert sum(len(gzip.compress(script.read_bytes(), mtime=0)) for script in scripts) < MOST_JS_BYTES


def test_every_file_is_served_and_kept_as_long_as_it_is_true(api):
    for path, file in PAGE.items():
        answer = api.client.get(path)
        assert (answer.status_code, answer.content) == (200, file.content)
        assert answer.headers["cache-control"] == (
            "public, max-age=31536000, immutable" if path.startswith("/assets/") else "no-cache"
        )
        assert answer.headers["content-security-policy"].startswith("default-src 'self'; ")
    assert {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file()} == {
        path.removeprefix("/") or "index.html" for path in PAGE
    }
    for path in (
        "/assets/",
        "/assets/../../backend/page.py",
        "/assets/%2e%2e/index.html",
        "/index.html",
        "/nothing.js",
    ):
        assert api.client.get(path).status_code == 404


def test_the_first_page_names_what_is_there_and_no_other_host():
    named = re.findall(r'(?:src|href)="([^"]+)"', PAGE["/"].content.decode())
    assert {path for path in named if path.startswith("/assets/")} == {
        path for path in PAGE if path.startswith("/assets/")
    }
    assert not [path for path in named if "//" in path]


def test_the_page_s_types_are_made_from_this_api():
    """Else: make page-types."""
    assert json.loads((FRONTEND / "openapi.json").read_text(encoding="utf-8")) == document()


def test_the_page_s_packages_are_pinned_to_the_version():
    package = json.loads((FRONTEND / "package.json").read_text(encoding="utf-8"))
    lock = json.loads((FRONTEND / "package-lock.json").read_text(encoding="utf-8"))
    wanted = {**package["dependencies"], **package["devDependencies"]}
    assert {name: lock["packages"][f"node_modules/{name}"]["version"] for name in wanted} == wanted
    # Which registry they come from is npm's own business.
    assert "resolved" not in json.dumps(lock)
