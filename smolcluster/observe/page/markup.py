"""HTML and SVG, built so that text is always escaped: a str is text, only what `tag` made is markup."""

from __future__ import annotations

from html import escape


class Markup(str):
    """Text that is markup already, made by `tag` or written in this package."""

    __slots__ = ()


def text(value: object) -> Markup:
    """A value as text."""
    return value if isinstance(value, Markup) else Markup(escape(str(value)))


def join(*parts: object) -> Markup:
    """Several pieces one after the other."""
    return Markup("".join(map(text, parts)))


def tag(_name: str, *inside: object, **attributes: object) -> Markup:
    """An element. Attributes: None leaves one out, True has no value; `class_` is class, `stroke_width` has a dash."""
    said = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{_name}{said}>{join(*inside)}</{_name}>")


def table(head: list[str], rows: list[list[object]], left: int = 1) -> Markup:
    """A table that scrolls by itself where the screen is narrow; all but the first `left` columns are numbers."""

    def cells(kind: str, row: list[object]) -> list[Markup]:
        return [tag(kind, cell, class_=None if index < left else "number") for index, cell in enumerate(row)]

    body = [tag("tr", *cells("td", row)) for row in rows]
    return tag(
        "div",
        tag("table", tag("thead", tag("tr", *cells("th", list(head)))), tag("tbody", *body)),
        class_="scroll",
        tabindex=0,
    )


def section(title: str, *inside: object) -> Markup:
    """A part of the page under its heading."""
    return tag("section", tag("h2", title), *inside)
