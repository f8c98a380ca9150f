"""Where weights to start from are found, and the copy that a run takes."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest

from smolcluster.commands._init import find_start
from smolcluster.data.corpus import Corpus
from smolcluster.data.hubclient import Hub, HubUnavailable
from smolcluster.data.prepare import prepare_corpus
from smolcluster.data.weights import find_weights, prepare_weights
from smolcluster.errors import ConfigError
from smolcluster.spec.modelfile import Weights
from smolcluster.spec.request import Request
from smolcluster.spec.resolve import resolve

ROOT = Path(__file__).resolve().parents[2]
LOCAL = ROOT / "inventory" / "local.smol.yml"
CONFIG = {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64, "vocab_size": 320}


class OnlyCache(Hub):
    """A hub that cannot be reached."""

    def files(self, repo: str, kind: str = "model") -> frozenset[str]:
        raise HubUnavailable("the hub cannot be reached (no route)")

    def download(self, repo: str, file: str) -> Path:
        raise AssertionError("nothing is fetched from a hub that was not reached")


class Reachable(Hub):
    """A hub of one repository, whose files appear in the cache when they are downloaded."""

    offered = ("config.json", "tokenizer.json", "model.safetensors.index.json", "a.safetensors", "b.safetensors")

    def files(self, repo: str, kind: str = "model") -> frozenset[str]:
        return frozenset((*self.offered, "pytorch_model.bin", "README.md"))

    def download(self, repo: str, file: str) -> Path:
        folder = snapshot(self.cache, repo)
        texts = {
            "config.json": json.dumps(CONFIG),
            "model.safetensors.index.json": json.dumps({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}),
        }
        (folder / file).write_text(texts.get(file, file))
        return folder / file


def snapshot(cache: Path, repo: str, *files: str) -> Path:
    """The hub library's cache: snapshots/<commit>/, which refs/main names."""
    base = cache / f"models--{repo.replace('/', '--')}"
    folder = base / "snapshots" / "c0ffee"
    folder.mkdir(parents=True, exist_ok=True)
    (base / "refs").mkdir(exist_ok=True)
    (base / "refs" / "main").write_text("c0ffee")
    for file in files:
        (folder / file).write_text(json.dumps(CONFIG) if file == "config.json" else file)
    return folder


def entry(source: str, location: str, **files: str | None) -> dict[str, Weights]:
    return {"mine": Weights(source=source, location=location, files=files or {"config.json": None}, licence="MIT")}


def model_folder(folder: Path, **config: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    (folder / "model.safetensors").write_text("numbers")
    return folder


def test_a_model_folder_a_run_and_the_latest_run(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "runs" / "first" / "model")
    (tmp_path / "runs" / "latest").symlink_to("first")
    (tmp_path / "runs" / "where").write_text("first\n")  # as runs/latest is where there are no links
    for path in (model, model.parent, tmp_path / "runs" / "latest", tmp_path / "runs" / "where"):
        assert find_start(str(path), LOCAL, whole=False) == model


def test_a_folder_with_pickled_weights_is_refused_before_anything_starts(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "m")
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="a pickle") as error:
        find_start(str(model), LOCAL, whole=False)
    assert "convert it with transformers" in str(error.value)


@pytest.mark.parametrize(
    ("name", "told"),
    [("gpt-2", "did you mean gpt2?"), ("./nowhere", "give a model folder, a run, a hub id")],
)
def test_a_name_that_means_nothing(name: str, told: str) -> None:
    with pytest.raises(ConfigError, match="there is no such folder or run") as error:
        find_start(name, LOCAL, whole=False)
    assert told in str(error.value)


def test_an_entry_of_the_person_s_own_table(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "m")
    inventory = tmp_path / "inventory" / "local.smol.yml"
    (tmp_path / "inventory" / "configs").mkdir(parents=True)
    table = tmp_path / "inventory" / "configs" / "model_weights.yaml"
    text = f"house: {{source: path, location: {model}, files: {{model.safetensors: null}}, licence: MIT}}\n"
    table.write_text(text)
    assert find_start("house", inventory, whole=True) == model
    table.write_text(text.replace("null", "'00'"))
    with pytest.raises(ConfigError, match=r"model\.safetensors is not what model_weights\.yaml pins"):
        find_start("house", inventory, whole=True)
    table.write_text("house: {source: somewhere}")
    with pytest.raises(ConfigError, match=r"model_weights.yaml:1: house.source"):
        find_start("house", inventory, whole=True)


def test_pinned_hashes_that_agree(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "m")
    pinned = {"model.safetensors": hashlib.sha256(b"numbers").hexdigest().upper()}
    assert find_weights("mine", entry("path", str(model), **pinned), whole=True) == model


def test_a_folder_inside_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "somepackage").mkdir()
    (tmp_path / "somepackage" / "__init__.py").write_text("raise RuntimeError('it must not be imported')")
    model = model_folder(tmp_path / "somepackage" / "files")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_weights("mine", entry("package", "somepackage/files"), whole=True) == model
    assert "somepackage" not in sys.modules
    with pytest.raises(ConfigError, match="the package otherpackage is not installed"):
        find_weights("mine", entry("package", "otherpackage/files"), whole=True)


def test_the_hub_s_cache_is_enough(tmp_path: Path) -> None:
    folder = snapshot(tmp_path, "owner/name", "config.json", "model.safetensors")
    hub = OnlyCache(cache=tmp_path)
    assert find_weights("owner/name", {}, whole=True, hub=hub) == folder
    assert find_weights("mine", entry("hub", "owner/name"), whole=True, hub=hub) == folder


def test_a_plan_needs_no_weights_and_a_run_does(tmp_path: Path) -> None:
    folder = snapshot(tmp_path, "owner/name", "config.json")
    hub = OnlyCache(cache=tmp_path)
    assert find_weights("owner/name", {}, whole=False, hub=hub) == folder
    with pytest.raises(ConfigError, match="not whole in the local hub cache, and the hub cannot be reached"):
        find_weights("owner/name", {}, whole=True, hub=hub)


def test_what_is_needed_is_fetched_and_no_pickle(tmp_path: Path) -> None:
    hub = Reachable(cache=tmp_path)
    folder = find_weights("owner/name", {}, whole=False, hub=hub)
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "tokenizer.json"]
    assert find_weights("owner/name", {}, whole=True, hub=hub) == folder
    assert sorted(file.name for file in folder.iterdir()) == sorted(Reachable.offered)


# -- the copy -----------------------------------------------------------------------------------------------------


@pytest.fixture
def text(tmp_path: Path) -> Path:
    corpus = Corpus("text", "made for the test", "none", ("".join(f"line {n} of {n * n}\n" for n in range(900)),))
    return prepare_corpus(corpus, "bpe:300", 32, tmp_path / "cache")


def run_from(folder: Path):
    small = ("data.dataset=pydoc", "model.max_seq_len=32", "data.tokenizer=bpe:300")
    return resolve(Request(LOCAL, "single", init=folder, overrides=small)).run


def test_the_copy_is_named_by_its_content_and_holds_what_is_needed(tmp_path: Path, text: Path) -> None:
    original = model_folder(tmp_path / "blobs")
    model = tmp_path / "m"  # as the hub's cache: links to blobs
    model.mkdir()
    for file in original.iterdir():
        (model / file.name).symlink_to(file)
    (model / "pytorch_model.bin").write_text("a pickle")
    said: list[str] = []
    copy = prepare_weights(run_from(model), text, tmp_path / "cache", said.append)
    assert sorted(file.name for file in copy.iterdir()) == ["config.json", "model.safetensors"]
    assert not any(file.is_symlink() for file in copy.iterdir())
    assert said == [f"weights: {model}, a copy in {copy}"]
    assert prepare_weights(run_from(original), text, tmp_path / "cache") == copy
    (original / "model.safetensors").write_text("other numbers")
    assert prepare_weights(run_from(original), text, tmp_path / "cache") != copy
    assert (copy / "model.safetensors").read_text() == "numbers"
    assert not list((tmp_path / "cache").glob(".building-*"))
    (copy / "model.safetensors").write_text("cut")
    (original / "model.safetensors").write_text("numbers")
    assert prepare_weights(run_from(original), text, tmp_path / "cache") == copy
    assert (copy / "model.safetensors").read_text() == "numbers", "a copy that was cut is made again"


def test_a_tokenizer_with_more_tokens_than_the_weights_know(tmp_path: Path, text: Path) -> None:
    model = model_folder(tmp_path / "m", vocab_size=290)
    with pytest.raises(ConfigError, match="this tokenizer has 300 tokens, and the weights to start from know 290"):
        prepare_weights(run_from(model), text, tmp_path / "cache")


def test_a_run_that_starts_from_none(tmp_path: Path, text: Path) -> None:
    assert prepare_weights(resolve(Request(LOCAL, "single")).run, text, tmp_path / "cache") is None
