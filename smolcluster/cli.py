"""`python -m smolcluster COMMAND`: the commands, each in its own module of smolcluster.commands.

A command module imports heavy things (torch, matplotlib) inside its function, so that `--help`, `check` and `plan`
start in a fraction of a second. Errors of ours end in one message on stderr and the code of errors.py.
"""

from __future__ import annotations

import sys

import typer

from smolcluster.commands import (
    bootstrap,
    certificate,
    check,
    checkpoint,
    compare,
    dashboard,
    doctor,
    enroll,
    export,
    fetch,
    generate,
    init,
    job,
    link,
    network,
    plan,
    prepare,
    profile,
    provision,
    report,
    runs,
    serve,
    simulate,
    track,
    train,
    upload,
    watch,
    weights,
)
from smolcluster.errors import ConfigError, SmolError
from smolcluster.files import explain_with_path, is_refusal

# The sections of --help, in the order in which a person meets them.
MACHINES = "Your machines"
RUNS = "Runs"
MODELS = "Models and data"
CALLED = "What the playbooks call"

app = typer.Typer(
    name="smolcluster",
    help="A few unequal computers as one machine that trains and serves PyTorch models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("init", rich_help_panel=MACHINES)(init.init)
app.command("check", rich_help_panel=MACHINES)(check.check)
app.command("bootstrap", rich_help_panel=MACHINES)(bootstrap.bootstrap)
app.command("enroll", rich_help_panel=MACHINES)(enroll.enroll)
app.command("profile", rich_help_panel=MACHINES)(profile.profile)
app.command("simulate", rich_help_panel=MACHINES)(simulate.simulate)
app.command("train", rich_help_panel=RUNS)(train.train)  # python -m smolcluster.train is the same
app.command("watch", rich_help_panel=RUNS)(watch.watch)
app.command("dashboard", rich_help_panel=RUNS)(dashboard.dashboard)
app.command("report", rich_help_panel=RUNS)(report.report)
app.command("compare", rich_help_panel=RUNS)(compare.compare)
app.command("checkpoint", rich_help_panel=RUNS)(checkpoint.checkpoint)
app.command("runs", rich_help_panel=RUNS)(runs.runs)
app.command("upload", rich_help_panel=RUNS)(upload.upload)
app.command("generate", rich_help_panel=MODELS)(generate.generate)
app.command("serve", rich_help_panel=MODELS)(serve.serve)
app.command("link", rich_help_panel=MODELS)(link.link)
app.command("weights", rich_help_panel=MODELS)(weights.weights)
app.command("fetch", rich_help_panel=MODELS)(fetch.fetch)
app.command("export-coreml", rich_help_panel=MODELS)(export.export_coreml)
app.command("export-onnx", rich_help_panel=MODELS)(export.export_onnx)
app.command("plan", rich_help_panel=CALLED)(plan.plan)
app.command("prepare", rich_help_panel=CALLED)(prepare.prepare)
app.command("doctor", rich_help_panel=CALLED)(doctor.doctor)
app.command("track", hidden=True)(track.track)
app.command("export-stages", hidden=True)(export.export_stages)
app.add_typer(certificate.app, name="certificate", rich_help_panel=CALLED)
app.add_typer(job.app, name="job", rich_help_panel=CALLED)
app.add_typer(network.app, name="network", rich_help_panel=CALLED)
app.add_typer(provision.app, name="provision", hidden=True)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; give the exit code that the process should leave with."""
    return run_app(app, arguments)


def run_app(application: typer.Typer, arguments: list[str] | None = None) -> int:
    """Run a typer application with our way of telling errors; give the exit code."""
    try:
        outcome = application(args=arguments, standalone_mode=False)
    except SmolError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except typer.Exit as leaving:
        return leaving.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except OSError as error:  # a disk or a folder that refuses is nobody's bug
        if not is_refusal(error):
            raise
        print(explain_with_path(error), file=sys.stderr)
        return ConfigError.exit_code
    except Exception as error:  # click's usage errors: a person's mistake, not ours
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()
        return int(getattr(error, "exit_code", 2))
    return outcome if isinstance(outcome, int) else 0
