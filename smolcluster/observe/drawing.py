"""A figure of matplotlib as SVG for documents and PNG for a quick look, the same bytes for the same records."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from smolcluster.runtime.runfolder import write_atomic

SIZE_INCHES = (7.0, 4.0)
MARGINS = {"left": 0.115, "right": 0.98, "bottom": 0.12, "top": 0.92}


def save_figure(base: Path, paint: Callable[[Axes], None]) -> list[Path]:
    """Draw one plot into base.svg and base.png, each whole or not at all; gives the files. `paint` names the axes."""
    with mpl.rc_context({"svg.hashsalt": "smolcluster"}):
        # Margins that fit: working them out would take as long as all of the drawing.
        figure = Figure(figsize=SIZE_INCHES)
        figure.subplots_adjust(**MARGINS)
        axes = figure.add_subplot()
        paint(axes)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        svg, png = io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None})
        figure.savefig(png, format="png", dpi=144)
    files = {base.with_suffix(".svg"): svg, base.with_suffix(".png"): png}
    for path, drawn in files.items():
        write_atomic(path, drawn.getvalue())
    return list(files)


def logarithmic(axes: Axes) -> None:
    """Powers of ten as numbers, 100 and not 10 with a small 2: setting mathematics takes as long as the whole plot."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(LogFormatter(labelOnlyBase=True))
    axes.yaxis.set_minor_formatter(LogFormatter())
