"""Pictures in SVG that are read on a light and on a dark page."""

import math
from collections.abc import Iterable
from html import escape

STYLE = """
text { font: 11px system-ui, sans-serif; fill: #57606a }
.title { font-weight: 600; fill: #1f2328 }
.frame { fill: none; stroke: #d0d7de }
@media (prefers-color-scheme: dark) {
  text { fill: #9198a1 }
  .title { fill: #f0f6fc }
  .frame { stroke: #3d444d }
}"""


def svg(width: float, height: float, title: str, style: str, parts: Iterable[str]) -> str:
    """Return a picture of these parts, with a style of its own after the common one."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img">'
    return (
        "\n".join([head, f"<title>{escape(title)}</title>", f"<style>{STYLE}{style}</style>", *parts, "</svg>"]) + "\n"
    )


def rounded_up(value: float) -> float:
    """Return a round number that is not below the value."""
    if value <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    return next(step * unit for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * unit >= value)
