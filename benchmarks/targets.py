"""A thing that is asked for, whether it was reached, and the table that says so."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

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
