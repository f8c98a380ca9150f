"""A hash of the modules: the same for the same code however it got there, another for any other."""

from __future__ import annotations

from pathlib import Path

from smolcluster.codehash import code_hash

FILES = {"__init__.py": "a = 1\n", "one/__init__.py": "", "one/two.py": "b = 2\nc = 3\n"}


def package(root: Path, changes: dict[str, str] | None = None, ends: str = "\n") -> Path:
    for name, text in (FILES | (changes or {})).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.replace("\n", ends).encode())
    return root


def test_the_same_code_wherever_it_is(tmp_path: Path) -> None:
    here = code_hash(package(tmp_path / "here"))
    assert len(here) == 12
    assert code_hash(package(tmp_path / "windows", ends="\r\n")) == here
    besides = {"__pycache__/x.py": "x", "page/node_modules/gyp/g.py": "g", "one/notes.yaml": "n: 1", "one/two.pyc": "-"}
    assert code_hash(package(tmp_path / "checkout", besides)) == here


def test_other_code(tmp_path: Path) -> None:
    moved = {"__init__.py": "", "one/__init__.py": "a = 1\n"}
    changes = [{}, {"one/two.py": "b = 2\nc = 4\n"}, {"one/three.py": ""}, {"one/__init__.py": "a = 1\n"}, moved]
    found = [code_hash(package(tmp_path / str(number), change)) for number, change in enumerate(changes)]
    assert len(set(found)) == len(changes)


def test_this_one() -> None:
    assert code_hash() == code_hash()
