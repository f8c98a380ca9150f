"""`python -m smolcluster dashboard [RUN]`: a run in the browser, as it goes or as it went."""

from __future__ import annotations

import importlib.util
import signal
import threading
from typing import Annotated

import typer

from smolcluster.commands._runs import LATEST, WHICH, existing_run
from smolcluster.errors import InputError, Problem


def dashboard(
    which: Annotated[str, typer.Argument(metavar="RUN", help=WHICH)] = LATEST,
    port: Annotated[int, typer.Option(min=0, max=65535, help="On this machine alone; 0 for any free one.")] = 0,
    open_: Annotated[bool, typer.Option("--open", help="Open it in a browser of this machine.")] = False,
    belongs_to: Annotated[int, typer.Option("--belongs-to", hidden=True, help="End when this process does.")] = 0,
) -> None:
    """Show a run in the browser: machines, links, curves, events, logs; while it goes, also a button that stops it.

    It prints a link that lets one browser in, once. Ctrl-C ends the dashboard, not the run.
    """
    import webbrowser

    _require_server()
    from smolcluster.dashboard.process import is_over, serve_dashboard
    from smolcluster.jobs.identity import identify
    from smolcluster.observe.serving_lines import link_lines
    from smolcluster.runtime.runfolder import RunFolder, run_at

    run_dir = existing_run(which)
    folder = RunFolder(run_at(run_dir))
    if not folder.path.is_dir():
        what = "is not a run folder"
        raise InputError([Problem(str(folder.path), 0, "", what, "give a folder under runs/, or runs/latest")])
    parent = identify(belongs_to) if belongs_to else None
    if belongs_to and parent is None:
        return  # it has ended already
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())

    def told(link: str) -> None:
        for line in (f"Dashboard of {folder.path.name}", *link_lines(link)):
            print(line, flush=True)
        if open_:
            webbrowser.open(link)

    serve_dashboard(folder, port, told, stop, parent, can_stop=not is_over(folder.path))


def _require_server() -> None:
    """InputError unless the extra that has the web server is installed."""
    lacking = [name for name in ("fastapi", "uvicorn", "websockets") if importlib.util.find_spec(name) is None]
    if lacking:
        what = f"what shows it in the browser is not installed ({', '.join(lacking)})"
        fix = "pip install 'smolcluster[dashboard]'   (in a clone: .venv/bin/pip install -e '.[dashboard]')"
        raise InputError([Problem("", 0, "dashboard", what, fix)])
