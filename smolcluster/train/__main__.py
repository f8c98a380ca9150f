"""`python -m smolcluster.train`: see smolcluster.commands.train."""

from __future__ import annotations

import sys

import typer

from smolcluster.cli import run_app
from smolcluster.commands.train import train

if __name__ == "__main__":
    helps = {"help_option_names": ["-h", "--help"]}
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, context_settings=helps)
    app.command()(train)
    sys.exit(run_app(app))
