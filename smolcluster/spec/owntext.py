"""Which files a person's own text is made of: one file of any name, or the text files of a folder."""

from __future__ import annotations

from pathlib import Path

TEXT_SUFFIXES = (".txt", ".text", ".md", ".rst")


def text_files(path: Path) -> list[Path]:
    """The file itself, or every text file below the folder in the order of their paths, hidden ones left out."""
    if path.is_file():
        return [path]
    return sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in TEXT_SUFFIXES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
