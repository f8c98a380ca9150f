"""What a person sees who may not come in yet, in plain HTML: why, and how to get in."""

from __future__ import annotations

from html import escape

_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>smolcluster</title></head>
<body>
<h1>smolcluster</h1>
<p>{why}</p>
<p>{how}</p>
</body>
</html>
"""
_NO_KEY = "This page needs a key."
_PRINTED = (
    "Open the link that <code>ansible-playbook inference.yml</code> printed: it lets one browser in, once, and a "
    "cookie keeps it in. If you just did, reload this page."
)
_ANOTHER = (
    "Get another one from a browser that is in, or on the machine that the playbook ran on: "
    "<code>python -m smolcluster link http://{host}</code>"
)


def locked(host: str, why: str = "") -> str:
    """The page. `why` a link does not work; "" if none was tried. `host` is how the browser reached us."""
    how = _ANOTHER.format(host=escape(host)) if why else f"{_PRINTED} {_ANOTHER.format(host=escape(host))}"
    return _PAGE.format(why=escape(why or _NO_KEY), how=how)
