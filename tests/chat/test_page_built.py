"""The pages as they ship: what is built, how it is served, that their types are the API's. No browser, no Node."""

import gzip
import json
import re
from pathlib import Path

import pytest

from smolcluster.chat.backend.__main__ import document
from smolcluster.chat.backend.page import FOLDER, PAGE
from smolcluster.dashboard.__main__ import document as dashboard_document
from smolcluster.tablet.web import FOLDER as TABLET_FOLDER
from smolcluster.tablet.web import read_page

FRONTEND = Path(__file__).resolve().parents[2] / "smolcluster" / "chat" / "frontend"
LOCK = json.loads((FRONTEND / "package-lock.json").read_text(encoding="utf-8"))
# How many bytes of scripts each page may be, compressed.
PAGES = {"/": 90_000, "/dashboard.html": 120_000}


def named_by(path: str) -> list[str]:
    """What a page has its browser load."""
    return re.findall(r'(?:src|href)="([^"]+)"', PAGE[path].content.decode())


@pytest.mark.parametrize(("path", "most"), PAGES.items())
def test_the_page_is_small(path, most):
    scripts = [PAGE[name].content for name in named_by(path) if name.endswith(".js")]
    assert scripts
    assert sum(len(gzip.compress(script, mtime=0)) for script in scripts) < most


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


def test_the_pages_name_what_is_there_and_no_other_host():
    named = {path: {name for name in named_by(path) if name.startswith("/assets/")} for path in PAGES}
    assert set.union(*named.values()) == {path for path in PAGE if path.startswith("/assets/")}
    # Who chats loads nothing of the dashboard.
    assert [name for name in named["/"] if "dashboard" in name] == []
    assert [name for path in PAGES for name in named_by(path) if "//" in name] == []


def packages(texts: Path) -> set[str]:
    """The packages whose licences stand there, each with a text that names somebody and grants something."""
    found = set()
    for part in texts.read_text(encoding="utf-8").split(f"\n{'-' * 80}\n\n"):
        name, version, _ = re.match(r"(\S+) (\S+) \((.+)\)\n\n", part).groups()
        assert version == LOCK["packages"][f"node_modules/{name}"]["version"]
        assert re.search(r"copyright \(c\) .+permission is hereby granted", part, re.IGNORECASE | re.DOTALL), name
        found.add(name)
    return found


def test_what_is_in_the_pages_has_its_licence_beside_them(api):
    chat, tablet = packages(FOLDER / "licenses.txt"), packages(TABLET_FOLDER / "licenses.txt")
    # React draws with the scheduler.
    assert chat | tablet == {*json.loads((FRONTEND / "package.json").read_text())["dependencies"], "scheduler"}
    assert chat == {"react", "react-dom", "scheduler", "uplot"}
    answer = api.client.get("/licenses.txt")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert read_page("run")["/tablet/licenses.txt"].content == (TABLET_FOLDER / "licenses.txt").read_bytes()


def test_the_page_s_types_are_made_from_this_api():
    """Else: make page-types."""
    assert json.loads((FRONTEND / "openapi.json").read_text(encoding="utf-8")) == document()
    assert json.loads((FRONTEND / "dashboard-openapi.json").read_text(encoding="utf-8")) == dashboard_document()


def test_the_page_s_packages_are_pinned_to_the_version():
    package = json.loads((FRONTEND / "package.json").read_text(encoding="utf-8"))
    wanted = {**package["dependencies"], **package["devDependencies"]}
    assert {name: LOCK["packages"][f"node_modules/{name}"]["version"] for name in wanted} == wanted
    # Which registry they come from is npm's own business.
    assert "resolved" not in json.dumps(LOCK)
