"""Targets of the benchmarks: measured values and their limits."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Bar:
    """A measured value and its limit. The limit is a minimum if `least`, otherwise a maximum."""

    name: str
    value: float
    limit: float
    least: bool = False

    @property
    def reached(self) -> bool:
        """Whether the value is within its limit."""
        return self.value >= self.limit if self.least else self.value <= self.limit

    def __str__(self) -> str:
        sign, verdict = "≥" if self.least else "≤", "reached" if self.reached else "MISSED"
        return f"| {self.name} | {self.value:.4g} | {sign} {self.limit:.4g} | {verdict} |"


def print_bars(bars: Iterable[Bar]) -> None:
    """Print measured values and their limits as a Markdown table."""
    print("\n| bar | measured | wanted | |\n|---|---|---|---|")
    print(*bars, sep="\n", flush=True)
