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
    '<a href="/">Enter the key</a> that <code>ansible-playbook inference.yml</code> printed beside the link, or get '
    "another link: from a browser that is in, or with that key: "
    "<code>curl -X POST -H 'Authorization: Bearer KEY' http://{host}/links</code>"
)


def locked(host: str, why: str) -> str:
    """The page. `why` the link does not work; `host` is how the browser reached us."""
    return _PAGE.format(why=escape(why), how=_HOW.format(host=escape(host)))
