"""What the benches should reach."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Bar:
    """A measured value, and the most that it should be, or the least."""

    name: str
    value: float
    limit: float
    least: bool = False

    def __str__(self) -> str:
        reached = self.value >= self.limit if self.least else self.value <= self.limit
        sign, verdict = "≥" if self.least else "≤", "reached" if reached else "MISSED"
        return f"| {self.name} | {self.value:.4g} | {sign} {self.limit:.4g} | {verdict} |"


def print_bars(bars: Iterable[Bar]) -> None:
    """As a table."""
    print("\n| bar | measured | wanted | |\n|---|---|---|---|")
    print(*bars, sep="\n", flush=True)
