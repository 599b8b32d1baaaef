"""Charts of results: for each scenario, a bar for each subject with the range of its rounds."""

from collections.abc import Iterator, Mapping
from html import escape

from report import Summary, number
from svg import rounded_up, svg

WIDTH, LEFT, RIGHT, BAR, GAP, TITLE = 640, 110, 90, 14, 14, 22
STYLE = """
.bar { fill: #0969da; fill-opacity: .55 }
.limit { fill: #8c959f; fill-opacity: .45 }
.range { stroke: #0969da; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) {
  .bar { fill: #4493f8 }
  .range { stroke: #4493f8 }
}"""


def chart(results: Mapping[str, tuple[str, Summary]], figure: str, unit: str) -> str:
    """Draw one figure of all scenarios that have it."""
    parts: list[str] = []
    y = 8.0
    for title, summary in results.values():
        figures = {subject: one[figure] for subject, one in summary.items() if figure in one}
        if figures:
            parts += _bars(f"{title}: {unit}", figures, y)
            y += TITLE + len(figures) * (BAR + 4) + GAP
    return svg(WIDTH, y, f"{unit}: medians, and the range of all rounds", STYLE, parts)


def _bars(title: str, figures: Mapping[str, tuple[float, float, float]], y: float) -> Iterator[str]:
    scale = (WIDTH - LEFT - RIGHT) / rounded_up(max(high for _, _, high in figures.values()))
    yield f'<text class="title" x="{LEFT}" y="{y + 12:g}">{escape(title.replace("`", ""))}</text>'
    y += TITLE
    for subject, (middle, low, high) in figures.items():
        kind = "limit" if subject == "limit" else "bar"
        yield f'<text x="{LEFT - 8}" y="{y + 11:g}" text-anchor="end">{escape(subject)}</text>'
        yield f'<rect class="{kind}" x="{LEFT}" y="{y:g}" width="{middle * scale:.1f}" height="{BAR}"/>'
        yield f'<path class="range" d="M{LEFT + low * scale:.1f} {y + BAR / 2:g}H{LEFT + high * scale:.1f}"/>'
        yield f'<text x="{LEFT + high * scale + 6:.1f}" y="{y + 11:g}">{number(middle)}</text>'
        y += BAR + 4
