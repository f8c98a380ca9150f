"""QR codes of links: as SVG for a page, as lines for a terminal."""

from __future__ import annotations

import segno

# Around the code, in modules: what readers need to find it.
_BORDER = 4
_TERMINAL_BORDER = 2
# The upper and the lower module of a character. A terminal is taken to be dark: what is light is painted.
_BLOCKS = {(False, False): "█", (False, True): "▀", (True, False): "▄", (True, True): " "}


def qr_svg(text: str) -> str:
    """An <svg> element with a viewBox and no size: black on white, also on a dark page."""
    return _code(text).svg_inline(omitsize=True, border=_BORDER, dark="#000", light="#fff")


def qr_lines(text: str) -> list[str]:
    """Half blocks, two rows of modules in a line."""
    rows = [[bool(module) for module in row] for row in _code(text).matrix_iter(border=_TERMINAL_BORDER)]
    if len(rows) % 2:
        rows.append([False] * len(rows[0]))
    pairs = zip(rows[::2], rows[1::2], strict=True)
    return ["".join(_BLOCKS[both] for both in zip(upper, lower, strict=True)) for upper, lower in pairs]


def _code(text: str) -> segno.QRCode:
    return segno.make(text, micro=False, error="m")
