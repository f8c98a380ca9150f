"""What benchmarks have in common: their flags, what is asked for and whether it was reached, the file they write."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Target:
    """One thing that is asked for."""

    what: str
    value: float
    limit: str
    passed: bool

    @classmethod
    def at_most(cls, what: str, values: Iterable[float], limit: float) -> Target:
        """The largest of `values` must not be above `limit`; passes when there are none, as with a choice of cases."""
        value = max(values, default=0.0)
        return cls(what, value, f"<= {limit:.2f}", value <= limit)

    @classmethod
    def at_least(cls, what: str, values: Iterable[float], limit: float) -> Target:
        """The smallest of `values` must not be below `limit`."""
        value = min(values)
        return cls(what, value, f">= {limit:.2f}", value >= limit)


def flags_for(name: str, doc: str | None, quick: str, full: str) -> argparse.ArgumentParser:
    """The flags that every benchmark has: `--quick` or `--full`, which say what they are, and `--out FILE`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help=f"{quick} (the default)")
    size.add_argument("--full", action="store_true", help=full)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    return parser


def conclude(out: Path | None, figures: dict[str, Any], targets: Sequence[Target] = ()) -> int:
    """Write the figures, and what was wanted, where a file was asked for. The exit code: 1 for a missed target."""
    if out is not None:
        told = {"schema": 1, **figures, "targets": [asdict(target) for target in targets]}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return 0 if all(target.passed for target in targets) else 1


def show_targets(console: Console, targets: Iterable[Target]) -> None:
    """What was asked, what was measured."""
    verdict = Table(title="targets")
    for column in ("", "measured", "wanted", ""):
        verdict.add_column(column)
    for target in targets:
        colour = "green" if target.passed else "red"
        verdict.add_row(
            target.what, f"{target.value:.3f}", target.limit, f"[{colour}]{'pass' if target.passed else 'miss'}[/]"
        )
    console.print(verdict)
