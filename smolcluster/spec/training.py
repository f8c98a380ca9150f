"""What is trained, completely resolved: automatic values worked out, two spellings of one setting made one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from smolcluster.errors import Problem
from smolcluster.spec.document import KeyPath
from smolcluster.spec.layers import Merged
from smolcluster.spec.modelfile import GPTFile, NNFile, TrainedModelFile
from smolcluster.spec.owntext import TEXT_SUFFIXES, text_files
from smolcluster.spec.pretrained import Pretrained
from smolcluster.spec.problems import did_you_mean, listed
from smolcluster.spec.resumed import Earlier, continued
from smolcluster.spec.run import (
    CheckpointSpec,
    DataSpec,
    GPTSpec,
    ModelSpec,
    NNSpec,
    ScheduleSpec,
    TrackingSpec,
    TrainingSpec,
)
from smolcluster.spec.start import started

_TEXTS = ("pydoc", "wikitext2", "snli", "wiki-sample")
_IMAGES = ("mnist",)
DATASETS = (*_TEXTS, *_IMAGES)
# A local copy of a data set is told from a person's own text by its files: tables, or what its authors published.
_TABLE_FILES = ("*.arrow", "*.parquet")
_COPIES = {
    "wikitext2": (*_TABLE_FILES, "wiki.train.raw", "wiki.train.tokens"),
    "snli": (*_TABLE_FILES, "snli_1.0_train.jsonl"),
}
TOKENS_PER_BATCH = 4096  # the guide's 32 samples of 128 tokens, 16 of 256
NN_BATCH = 32
_EPOCHS = {"wikitext2": 30, "snli": 20}
_VOCABULARY = {"openai-community/gpt2": 50257, "gpt2": 50257}
_GPT2_VOCABULARY = 50257
# A warm-up that nobody wrote for this run takes this part of a run that is shorter than it.
_WARM_UP_PART = 10
_BPE_RANGE = (257, 65536)  # 256 bytes and one merge; what a two-byte token can hold


@dataclass
class Trained:
    """The model's half of a RunSpec, with notes and Problems. The values are only meaningful without Problems."""

    model: ModelSpec
    training: TrainingSpec
    schedule: ScheduleSpec
    data: DataSpec
    checkpoint: CheckpointSpec
    project_name: str
    tracking: TrackingSpec
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def trained(
    file: TrainedModelFile, origin: Merged, start: Pretrained | None = None, earlier: Earlier | None = None
) -> Trained:
    """Resolve the merged model config; `start`: the weights the model starts from, `earlier`: the run it was in."""
    problems: list[Problem] = []
    notes: list[str] = []
    data = _data(file, origin, problems)
    model = _model(file, origin, data, problems)
    if start is not None and isinstance(model, GPTSpec):
        model = started(model, start, origin, problems, notes)
    if earlier is not None:
        model = continued(model, earlier)
    section = file.training
    clipping = file.gradient_clipping
    clips = clipping.enabled if clipping.enabled is not None else clipping.max_norm is not None
    automatic = max(1, TOKENS_PER_BATCH // model.max_seq_len) if isinstance(model, GPTSpec) else NN_BATCH
    training = TrainingSpec(
        batch_size=section.batch_size or automatic,
        epochs=section.epochs or _EPOCHS.get(data.dataset, 1),
        max_steps=section.max_steps,
        learning_rate=section.learning_rate,
        weight_decay=section.weight_decay,
        grad_clip_norm=(clipping.max_norm or 1.0) if clips else None,
        eval_steps=section.eval_steps,
        grad_accumulation=section.grad_accumulation,
        track_gradients=section.track_gradients,
        polyak_alpha=section.polyak_alpha,
        precision=section.precision,
        activation_checkpointing=section.activation_checkpointing,
        compile=section.compile,
    )
    schedule = _schedule(file, origin, problems, notes)
    project = file.logging.project_name or f"smolcluster-{model.type}-{data.dataset}"
    checkpoint = CheckpointSpec(**file.checkpoint.model_dump())
    tracking = TrackingSpec(tracker=file.logging.tracker, mode=file.logging.mode)
    return Trained(model, training, schedule, data, checkpoint, project, tracking, problems, notes)


def _schedule(file: TrainedModelFile, origin: Merged, problems: list[Problem], notes: list[str]) -> ScheduleSpec:
    rate, section = file.training.learning_rate, file.lr_schedule
    min_lr = section.min_lr if section.min_lr is not None else rate
    if min_lr > rate:
        what = f"{min_lr:g} is more than training.learning_rate, {rate:g}"
        problems.append(
            origin.problem(("lr_schedule", "min_lr"), what, f"use at most {rate:g}, or null for a constant rate")
        )
    return ScheduleSpec(warmup_iters=_warm_up(file, origin, problems, notes), min_lr=min_lr)


def _warm_up(file: TrainedModelFile, origin: Merged, problems: list[Problem], notes: list[str]) -> int:
    """The warm-up. One of a lower layer than the steps was written for a longer run: it is shortened, with a note."""
    steps, warm_up = file.training.max_steps, file.lr_schedule.warmup_iters
    if steps is None or warm_up <= steps:
        return warm_up
    here: KeyPath = ("lr_schedule", "warmup_iters")
    if not origin.below(here, ("training", "max_steps")):
        what = f"{warm_up} is more than training.max_steps, {steps}"
        problems.append(origin.problem(here, what, f"write at most {steps}, or train longer"))
        return warm_up
    shortened = steps // _WARM_UP_PART
    why = f"training.max_steps is {steps}, and was given later"
    notes.append(origin.note(here, warm_up, str(shortened), why))
    return shortened


def _model(file: TrainedModelFile, origin: Merged, data: DataSpec, problems: list[Problem]) -> ModelSpec:
    if isinstance(file, NNFile):
        return NNSpec(input_dim=file.model.input_dim, hidden=file.model.hidden, out=file.model.out)
    assert isinstance(file, GPTFile)
    section = file.model
    if section.model_dim % section.num_heads:
        what = f"{section.num_heads} heads do not divide model_dim, {section.model_dim}"
        fix = f"use one of {listed(str(n) for n in range(1, 33) if section.model_dim % n == 0)}"
        problems.append(origin.problem(("model", "num_heads"), what, fix))
    return GPTSpec(
        model_dim=section.model_dim,
        num_layers=section.num_layers,
        num_heads=section.num_heads,
        ff_dim=section.ff_dim,
        dropout=section.dropout,
        max_seq_len=section.max_seq_len,
        tie_embeddings=section.tie_embeddings,
        vocab_size=section.vocab_size or _vocabulary(data.tokenizer),
    )


def _vocabulary(tokenizer: str) -> int:
    """Entries the tokenizer is expected to have; the data folder's meta.json has the last word."""
    if tokenizer.startswith("bpe:"):
        size = tokenizer.removeprefix("bpe:")
        return int(size) if size.isdecimal() and int(size) else _GPT2_VOCABULARY
    return _VOCABULARY.get(tokenizer, _GPT2_VOCABULARY)


def _data(file: TrainedModelFile, origin: Merged, problems: list[Problem]) -> DataSpec:
    if isinstance(file, NNFile):
        return _images(file, origin, problems)
    section = file.data
    tokenizer = _tokenizer(section.tokenizer, origin, problems)
    known = _TEXTS
    names = {_plain(name): name for name in DATASETS}
    name = names.get(_plain(section.dataset))
    if section.path is not None:
        path = _existing(section.path, ("data", "path"), origin)
        if path is None:
            what = f'there is no file or folder "{section.path}"'
            problems.append(origin.problem(("data", "path"), what, "check the path"))
        kinds = _COPIES.get(name or "", ())
        copied = path is not None and any(next(path.rglob(kind), None) for kind in kinds)
        if path is not None and not copied:
            problems += _no_text(path, ("data", "path"), origin)
        return DataSpec(
            dataset=name if copied and name else "text",
            path=str(path),
            tokenizer=tokenizer,
            streaming=section.streaming,
        )
    key: KeyPath = ("data", "dataset")
    if name is not None:
        if name not in known:
            what = f"{name} is images, and a gpt model is trained on text"
            problems.append(origin.problem(key, what, f"write {listed(known)}, or the path of your own text"))
        return DataSpec(dataset=name, tokenizer=tokenizer, streaming=section.streaming)
    path = _existing(section.dataset, key, origin)
    if path is None:
        what = f'"{section.dataset}" is neither a data set nor a file or folder that is there'
        advice = f"write {listed(known)}, or the path of your own text"
        problems.append(origin.problem(key, what, did_you_mean(section.dataset, known, advice)))
    else:
        problems += _no_text(path, key, origin)
    return DataSpec(dataset="text", path=str(path), tokenizer=tokenizer)


def _images(file: NNFile, origin: Merged, problems: list[Problem]) -> DataSpec:
    """Pictures: mnist, from wherever it is, or the folder that holds it."""
    section = file.data
    key: KeyPath = ("data", "path") if section.path is not None else ("data", "dataset")
    said = section.path if section.path is not None else section.dataset
    if section.path is None and _plain(said) in _IMAGES:
        return DataSpec(dataset=_plain(said), tokenizer=section.tokenizer, streaming=section.streaming)
    path = _existing(said, key, origin)
    advice = f"write {listed(_IMAGES)}, or the path of a folder with its files"
    if path is None and _plain(said) in map(_plain, _TEXTS):
        problems.append(origin.problem(key, f"{said} is text, and an nn model is trained on pictures", advice))
    elif path is None:
        what = f'"{said}" is neither a data set nor a folder that is there'
        problems.append(origin.problem(key, what, did_you_mean(said, _IMAGES, advice)))
    elif not path.is_dir():
        problems.append(origin.problem(key, f"{path} is a file, and a folder with MNIST's files is wanted", advice))
    return DataSpec(dataset="mnist", path=str(path), tokenizer=section.tokenizer)


def _no_text(path: Path, key: KeyPath, origin: Merged) -> list[Problem]:
    """What is wrong with a person's own text that can be told without reading it."""
    if path.is_file():
        empty = path.stat().st_size == 0
        return [origin.problem(key, f"{path} is empty", "give a file with text in it")] if empty else []
    if text_files(path):
        return []
    what = f"there is no text file in {path} (looked for {listed(TEXT_SUFFIXES)}, also in its sub-folders)"
    return [origin.problem(key, what, "give a folder of .txt files, or one file of any name")]


def _plain(name: str) -> str:
    """WikiText-2, wikitext_2, wikitext2: one name."""
    return name.lower().replace("-", "").replace("_", "")


def _tokenizer(name: str, origin: Merged, problems: list[Problem]) -> str:
    key: KeyPath = ("data", "tokenizer")
    if name.startswith("bpe:"):
        size = name.removeprefix("bpe:")
        low, high = _BPE_RANGE
        if not size.isdecimal() or not low <= int(size) <= high:
            what = f'"{name}" is no tokenizer'
            problems.append(origin.problem(key, what, f"write bpe:2048, a size from {low} to {high}"))
        return name
    path = _existing(name, key, origin)
    if path is not None:
        return str(path)
    if name.startswith((".", "/", "~")) or name.endswith(".json"):
        what = f'there is no tokenizer "{name}"'
        problems.append(origin.problem(key, what, "check the path, or write bpe:2048 to train one on the text"))
    return name


def _existing(text: str, key: KeyPath, origin: Merged) -> Path | None:
    """The absolute path, from the current folder or beside the file that says it; None when there is nothing."""
    given = Path(text).expanduser()
    source = origin.source(key)
    folders = [Path.cwd()]
    if source is not None and source.lines:
        folders.append(Path(source.file).resolve().parent)
    for folder in folders:
        if (folder / given).exists():
            return (folder / given).resolve()
    return None
