"""The table of results, in Markdown."""

from collections.abc import Iterator, Mapping
from typing import TypeAlias

Summary: TypeAlias = Mapping[str, Mapping[str, tuple[float, float, float]]]
"""Median, least and largest figure, by subject and name."""

HEAD = """\
| scenario | subject | per second | range | share of the limit | CPU µs each | median ms | p99 ms | resident MB |
|---|---|---|---|---|---|---|---|---|"""


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def rows(title: str, summary: Summary) -> Iterator[str]:
    """Yield the rows of a scenario, or one row with other figures than those of a load."""
    limit = summary.get("limit", {}).get("per second", (0.0,))[0]
    for subject, figures in summary.items():
        if "per second" not in figures:
            said = ", ".join(
                f"{name}: {number(middle)} ({number(low)}–{number(high)})"
                for name, (middle, low, high) in figures.items()
            )
            yield f"| {title} | {subject} | {said} |" + " |" * 6
            continue
        middle, low, high = figures["per second"]
        share = f"{middle / limit:.1%}" if limit else ""
        rest = [number(figures[name][0]) for name in ("cpu us", "median ms", "p99 ms", "memory mb")]
        cells = [title, subject, number(middle), f"{number(low)}–{number(high)}", share, *rest]
        yield "| " + " | ".join(cells) + " |"


def table(results: Mapping[str, tuple[str, Summary]]) -> str:
    """Return the table of all scenarios, by name: their titles and summaries."""
    return "\n".join([HEAD, *(row for title, summary in results.values() for row in rows(title, summary))])
