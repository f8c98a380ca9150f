"""`python -m smolcluster COMMAND`: the commands, each in its own module of smolcluster.commands.

Only the command that is called is imported: a node is asked how its run goes every few seconds, by a command of its
own each time. Its module imports heavy things (torch, matplotlib) inside its function, so that `--help`, `check` and
`plan` start in a fraction of a second. Errors of ours end in one message on stderr and the code of errors.py.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass

import typer

from smolcluster.errors import ConfigError, SmolError
from smolcluster.files import explain_with_path, is_refusal


@dataclass(frozen=True)
class _Command:
    """Where a command is: a function of a module of smolcluster.commands, or `app`, which has commands of its own. A
    `section` of --help, None for those that nobody types.
    """

    module: str
    function: str
    section: str | None


def _under(section: str | None, *names: str) -> dict[str, _Command]:
    """Commands that are called as their module and function are."""
    return {name: _Command(name, name, section) for name in names}


# The sections of --help, in the order in which a person meets them.
_MACHINES = "Your machines"
_RUNS = "Runs"
_MODELS = "Models and data"
_CALLED = "What the playbooks call"
_COMMANDS = {
    **_under(_MACHINES, "init", "check", "bootstrap", "enroll", "profile", "simulate"),
    # `python -m smolcluster.train` is the same.
    **_under(_RUNS, "train", "watch", "dashboard", "report", "compare", "checkpoint", "runs", "upload"),
    **_under(_MODELS, "generate", "serve", "link", "weights", "fetch"),
    "export-coreml": _Command("export", "export_coreml", _MODELS),
    "export-onnx": _Command("export", "export_onnx", _MODELS),
    "export-stages": _Command("export", "export_stages", None),
    **_under(_CALLED, "plan", "prepare", "doctor"),
    **_under(None, "track"),
    "certificate": _Command("certificate", "app", _CALLED),
    "job": _Command("job", "app", _CALLED),
    "network": _Command("network", "app", _CALLED),
    "provision": _Command("provision", "app", None),
}


def app_of(name: str = "") -> typer.Typer:
    """The application with the command of that name; with all of them, where none has it."""
    app = typer.Typer(
        name="smolcluster",
        help="A few unequal computers as one machine that trains and serves PyTorch models.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    # Without it a single command would be the application itself, and its name an argument.
    app.callback()(lambda: None)
    for each in [name] if name in _COMMANDS else _COMMANDS:
        command = _COMMANDS[each]
        found = getattr(importlib.import_module(f"smolcluster.commands.{command.module}"), command.function)
        hidden = command.section is None
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=each, hidden=hidden, rich_help_panel=command.section)
        else:
            app.command(each, hidden=hidden, rich_help_panel=command.section)(found)
    return app


def main(arguments: list[str] | None = None) -> int:
    """Run one command; give the exit code that the process should leave with."""
    words = sys.argv[1:] if arguments is None else arguments
    return run_app(app_of(words[0] if words else ""), arguments)


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
