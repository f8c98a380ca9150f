"""`python -m smolcluster bootstrap macos | linux | windows`: what allows the first login to a bare machine."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from smolcluster.provision.bootstrap import System, told


def bootstrap(
    system: Annotated[System, typer.Argument(help="What runs on the machine.")],
) -> None:
    """Print what is typed on a bare machine to allow the first login over SSH, and what comes next."""
    sys.stdout.write(told(system))
