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
    upload,
    watch,
    weights,
)
from smolcluster.errors import ConfigError, SmolError
from smolcluster.files import explain_with_path, is_refusal

app = typer.Typer(
    name="smolcluster",
    help="A few unequal computers as one machine that trains PyTorch models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("init")(init.init)
app.command("check")(check.check)
app.command("doctor")(doctor.doctor)
app.command("plan")(plan.plan)
app.command("prepare")(prepare.prepare)
app.command("profile")(profile.profile)
app.command("checkpoint")(checkpoint.checkpoint)
app.command("fetch")(fetch.fetch)
app.command("generate")(generate.generate)
app.command("report")(report.report)
app.command("runs")(runs.runs)
app.command("bootstrap")(bootstrap.bootstrap)
app.command("compare")(compare.compare)
app.command("watch")(watch.watch)
app.command("upload")(upload.upload)
app.command("enroll")(enroll.enroll)
app.command("serve")(serve.serve)
app.command("simulate")(simulate.simulate)
app.command("link")(link.link)
app.command("weights")(weights.weights)
app.command("export-coreml")(export.export_coreml)
app.command("export-onnx")(export.export_onnx)
app.command("export-stages", hidden=True)(export.export_stages)
app.add_typer(certificate.app, name="certificate")
app.add_typer(job.app, name="job")
app.add_typer(network.app, name="network")
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
