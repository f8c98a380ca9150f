"""What a person sees whose link does not let them in, in plain HTML: why, and how to get in."""

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
_HOW = (
    "Get another one from a browser that is in, or on the machine that the playbook ran on: "
    '<code>python -m smolcluster link http://{host}</code>. Or <a href="/">enter the key</a>.'
)


def locked(host: str, why: str) -> str:
    """The page. `why` the link does not work; `host` is how the browser reached us."""
    return _PAGE.format(why=escape(why), how=_HOW.format(host=escape(host)))
