"""`python -m smolcluster generate runs/latest "Once upon"`: try a trained model."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from typing import Annotated

import typer

from smolcluster.commands._runs import RUNS, WHICH, guess, has_served, last_trained, run_named
from smolcluster.errors import ConfigError, InputError, Problem
from smolcluster.runtime.runfolder import RunFolder, read_json, run_at

MODEL_FILE = "config.json"
GPT2 = "gpt2"


def generate(
    where: Annotated[str, typer.Argument(metavar="RUN_OR_MODEL", help=f"{WHICH} Or a model's folder.")],
    prompt: Annotated[str, typer.Argument(help="The text to go on from.")] = "",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to write at most.")] = 100,
    temperature: Annotated[float, typer.Option(min=0, help="Below 1 is safer, above 1 wilder, 0 is --greedy.")] = 0.8,
    top_k: Annotated[int, typer.Option(min=0, help="Choose among the k likeliest tokens; 0 is all.")] = 40,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="Choose among the likeliest that reach p.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed writes the same text.")] = 42,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always take the likeliest token.")] = False,
) -> None:
    """Continue PROMPT with the model that a run saved. The text appears as it is written."""
    path = run_named(where)
    if not path.exists():
        near = guess(where, path.parent if "/" in where else RUNS)
        raise _problem(path, "there is no such run or model", f"{near} Or {_others(path)}" if near else _others(path))
    folder = find_model(refuse_served(path))
    refuse_classifier(folder)
    from smolcluster.data.text import TextStream
    from smolcluster.data.tokenizer import load_tokenizer
    from smolcluster.models.hf import load_pretrained
    from smolcluster.models.sampling import Sampling, continuation

    try:
        how = Sampling(0.0 if greedy else temperature, top_k, top_p)
    except ValueError as error:
        raise InputError(
            [Problem("", 0, "generate", str(error), "see python -m smolcluster generate --help")]
        ) from None
    try:
        choice = load_tokenizer(str(folder))
    except ConfigError as error:
        # The setting that a training run would have, data.tokenizer, is none of this command.
        fix = "put the tokenizer.json the model was trained with into its folder, or train the model again"
        raise InputError(Problem(str(folder), 0, "", wrong.what, fix) for wrong in error.problems) from error
    model = load_pretrained(folder)
    ids = choice.tokenizer.encode(prompt, add_special_tokens=False).ids
    if not ids:
        if choice.end is None:
            what, fix = "is empty, and this model has no token to begin with", "write a few words to go on from"
            raise InputError([Problem("", 0, "PROMPT", what, fix)])
        ids = [choice.end]
    largest = max(ids)
    if largest >= model.spec.vocab_size:
        what = f"its tokenizer gives token {largest}, but the model knows only {model.spec.vocab_size} tokens"
        fix = "put the tokenizer.json the model was trained with into its folder"
        raise InputError([Problem(str(folder), 0, "", what, fix)])
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A model may write any character; a Windows console's code page has few.
        sys.stdout.reconfigure(encoding="utf-8", errors="replace")
    text = TextStream(choice.tokenizer)
    typer.echo(prompt, nl=False)
    for token in continuation(model, ids, max_new_tokens, how, seed, end=choice.end):
        typer.echo(text.feed(token), nl=False)
    typer.echo(text.finish())


def find_model(where: Path) -> Path:
    """The model folder that a person means by a run folder or a model folder. InputError tells what to do."""
    run = RunFolder(where)
    for folder in (run.model, where):
        if (folder / MODEL_FILE).is_file():
            return folder
    if not where.exists():
        raise _problem(where, "there is no such run or model", _others(where))
    if not where.is_dir():
        raise _problem(where, "is a file; a run folder or a model folder is needed", _others(where))
    if run.plan.is_file() or run.summary.is_file():
        raise _problem(where, f"this run has no model: {_state(run)}", _others(where))
    raise _problem(
        where, "is neither a run folder nor a model folder (no model/config.json, no config.json)", _others(where)
    )


def refuse_served(where: Path) -> Path:
    """InputError for a run that served a model which cannot be tried here: it has trained none."""
    if not has_served(run_at(where)) or _type(RunFolder(run_at(where)).model) == GPT2:
        return where
    trained = last_trained(where.parent)
    good = (RunFolder(run_at(trained)).model / MODEL_FILE).is_file() and not has_served(run_at(trained))
    fix = f"the last run that trained a model: {trained}" if good else _others(where)
    raise _problem(where, "is a run that served a model, and trained none", fix)


def refuse_classifier(folder: Path) -> None:
    """InputError for a SimpleNN, which tells what a picture shows and writes no text."""
    from smolcluster.models.classifier import MODEL_TYPE

    if _type(folder) == MODEL_TYPE:
        raise _problem(folder, "is a SimpleNN: it tells what a picture shows, and writes no text", _others(folder))


def _type(folder: Path) -> str:
    """What config.json says the model is; "" where that cannot be told."""
    with contextlib.suppress(OSError, ValueError):
        return str(read_json(folder / MODEL_FILE).get("model_type"))
    return ""


def _state(run: RunFolder) -> str:
    with contextlib.suppress(OSError, ValueError):
        summary = read_json(run.summary)
        reason = f" ({summary['reason']})" if summary.get("reason") else ""
        return f"it {summary.get('status', 'ended')}{reason}"
    return "it has not ended, or was not collected yet (ansible-playbook collect.yml)"


def _others(where: Path) -> str:
    """What to try instead: runs beside it that have a model, newest first, else how to train one."""
    runs = sorted(folder.parent.parent for folder in where.parent.glob(f"*/model/{MODEL_FILE}"))
    named = [str(run) for run in reversed(runs) if not run.is_symlink() and not has_served(run)][:3]
    return f"try {' or '.join(named)}" if named else "train one: ansible-playbook train.yml -e strategy=fsdp"


def _problem(where: Path, what: str, fix: str) -> InputError:
    return InputError([Problem(str(where), 0, "", what, fix)])
