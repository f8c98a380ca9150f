"""`python -m smolcluster report [RUN]`: the summary and the plots of a run, from what it left in its folder; with
--bundle also the archive that a person sends with a report of trouble, which needs no run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smolcluster.commands._runs import LATEST, RUNS, WHICH, existing_run, run_named, uncollected
from smolcluster.errors import InputError, Problem

if TYPE_CHECKING:
    from smolcluster.observe.bundle import Entry
    from smolcluster.runtime.runfolder import Summary


def report(
    which: Annotated[str | None, typer.Argument(metavar="RUN", help=WHICH, show_default=LATEST)] = None,
    followed: Annotated[
        bool, typer.Option("--followed", help="Leave out why a rank failed: whoever followed the run has read it.")
    ] = False,
    bundle: Annotated[
        Path | None,
        typer.Option(
            "--bundle",
            metavar="FILE.tar.gz",
            help="Write what to send with a report of trouble: no secrets, and names and addresses replaced.",
        ),
    ] = None,
    doctor: Annotated[
        Path | None,
        typer.Option("--check", metavar="JSON", help="The check.json for the bundle; the newest in runs/check else."),
    ] = None,
    html: Annotated[bool, typer.Option("--html", help="Write report.html too, one page that has all in it.")] = False,
) -> None:
    """Write summary.json and plots/ of a run and print its summary. A failed run is told, and is no failure of this.

    Of a run that a supervisor here is still at nothing is written. With --bundle only the archive is, of any run; where
    there is none yet, of what setup.yml, network.yml and check.yml left.
    """
    from smolcluster.jobs.poll import active_here
    from smolcluster.observe.records import Reader
    from smolcluster.observe.report import plan_in
    from smolcluster.runtime.runfolder import run_at

    if bundle is not None:
        write_bundle(which, bundle, doctor)
        return
    run_dir = existing_run(which or LATEST)
    nodes = dict.fromkeys(rank.node for rank in plan_in(run_dir, Reader()).ranks)
    # Whoever followed it has seen it end, or has given it up.
    active = () if followed else active_here(run_at(run_dir), nodes)
    if active:
        typer.echo(f"{run_dir}: it is still running ({', '.join(active)}); it has a report when it has ended")
        typer.echo(f"how it goes: python -m smolcluster watch {which or LATEST}")
        return
    report_on(run_dir, followed, html)


def write_bundle(which: str | None, file: Path, doctor: Path | None) -> None:
    """Show what goes into the archive, then write it. InputError: no such run, nothing to send, no place for it."""
    import time

    from smolcluster.observe.bundle import write

    if file.is_dir():
        raise InputError([Problem(str(file), 0, "--bundle", "is a folder", f"name a file: {file / 'report.tar.gz'}")])
    if doctor is not None:
        _require_check(doctor)
    # Who names none may have none yet: what went wrong is the setup then.
    named = which is not None or run_named(LATEST).exists()
    entries = _of_run(existing_run(which or LATEST), doctor) if named else _without_run(doctor)
    for entry in entries:
        typer.echo(f"  {entry.name:<44} {len(entry.text.encode()):>9,} bytes")
    typer.echo(
        "Names of machines and users, addresses and home folders are replaced; secrets and variables are left out."
    )
    try:
        write(file, entries, time.time())
    except OSError as error:
        what = f"cannot be written: {error.strerror or error}"
        raise InputError([Problem(str(file), 0, "--bundle", what, "name a file in a folder of yours")]) from error
    typer.echo(f"written: {file}. Look into it before you send it: tar -xzf {file}")


def _require_check(file: Path) -> None:
    """Who names a check means it: it may not be left out as one that lies there may. InputError."""
    from smolcluster.runtime.runfolder import read_json

    what = ""
    try:
        read_json(file)
    except OSError as error:
        what = f"cannot be read: {error.strerror or error}" if file.is_file() else "is no file"
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        what = f"is no JSON: {error}"
    except ValueError:
        what = "is no JSON object"
    if what:
        fix = "name a check.json of check.yml, as in runs/check"
        raise InputError([Problem(str(file), 0, "--check", what, fix)])


def _of_run(run_dir: Path, doctor: Path | None) -> tuple[Entry, ...]:
    from smolcluster.observe.bundle import entries_of
    from smolcluster.observe.records import Reader
    from smolcluster.observe.report import plan_in
    from smolcluster.runtime.runfolder import RunFolder, run_at

    return entries_of(RunFolder(run_at(run_dir)), plan_in(run_dir, Reader()), doctor)


def _without_run(doctor: Path | None) -> tuple[Entry, ...]:
    from smolcluster.observe.bundle import entries_without_run

    entries = entries_without_run(RUNS, doctor)
    if not entries:
        what = "holds nothing to send: no run, and no report of setup.yml, network.yml or check.yml"
        fix = "call this where you call ansible-playbook, after one of them: ansible-playbook check.yml"
        raise InputError([Problem(str(RUNS), 0, "", what, fix)])
    typer.echo("There is no run yet; what setup.yml, network.yml and check.yml left:")
    return entries


@uncollected()
def report_on(run_dir: Path, followed: bool = False, html: bool = False) -> Summary:
    """Write summary.json and plots/ of a run (requests.jsonl where a model was served, profile.json where machines were
    measured) and as `html` its page, print its summary, give it.
    """
    from rich.console import Console

    from smolcluster.commands._request import print_notes
    from smolcluster.commands._tracking import track_if_asked
    from smolcluster.observe.plots import write_plots
    from smolcluster.observe.profiled import ProfileStory, profile_of
    from smolcluster.observe.served import ServeStory, read_story, summarise_story
    from smolcluster.observe.tables import show
    from smolcluster.runtime.runfolder import RunFolder, run_at, write_atomic

    story = read_story(run_dir)
    print_notes(story.notes)
    summary = summarise_story(story)
    folder = RunFolder(run_at(run_dir))
    write_atomic(folder.summary, summary.model_dump_json(by_alias=True, indent=2) + "\n")
    console = Console(soft_wrap=False)
    show(console, story, summary, followed)
    if html:
        from smolcluster.observe.page.write import write_page

        write_page(folder, story, summary)
        console.print(f"page: {run_dir / folder.page.name}", highlight=False, soft_wrap=True)
    if isinstance(story, ProfileStory):
        if story.whole and summary.status == "completed":
            write_atomic(folder.profile, profile_of(story).model_dump_json(by_alias=True, indent=2) + "\n")
        return summary
    if isinstance(story, ServeStory):
        lines = [request.model_dump_json(by_alias=True) + "\n" for request in story.requests]
        write_atomic(folder.all_requests, "".join(lines))
        return summary
    plots = write_plots(story, summary, folder.plots)
    tracked = track_if_asked(folder, story, run_dir)
    if tracked:
        console.print(tracked, highlight=False, soft_wrap=True, markup=False)
    if plots:
        console.print(f"plots: {run_dir / 'plots'}", highlight=False, soft_wrap=True)
    if summary.status == "completed" and folder.model.exists() and summary.perplexity is not None:
        console.print(f'try it: python -m smolcluster generate {run_dir} "Once upon"', highlight=False, soft_wrap=True)
    return summary
