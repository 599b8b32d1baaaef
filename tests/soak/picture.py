"""The picture of a soak: a small chart for each series, as SVG that is read on a light and on a dark page."""

import math
import statistics
from collections.abc import Iterator
from html import escape

from svg import rounded_up, svg

from soak.judge import BOUNDS, Bound, Series, Verdict
from soak.run import Report

COLUMNS, WIDTH, HEIGHT = 2, 400, 130
LEFT, TOP, RIGHT, BOTTOM = 46, 30, 14, 22
"""Margins of the plot in its chart."""
POINTS = 120
JOBS = Bound("jobs", "jobs that end per second", "", 0)

STYLE = """
.judged { fill: #0969da; fill-opacity: .07 }
.band { fill: #0969da; fill-opacity: .25 }
.line { fill: none; stroke: #0969da; stroke-width: 1.5 }
.kill { stroke: #cf222e; stroke-width: 1; stroke-dasharray: 2 2 }
@media (prefers-color-scheme: dark) {
  .judged, .band { fill: #4493f8 }
  .line { stroke: #4493f8 }
  .kill { stroke: #f85149 }
}"""


def picture(report: Report) -> str:
    """Draw a soak. Lines are medians of neighbouring samples, the bands their extremes, dotted lines the kills."""
    charts = [
        *((JOBS, report.series["jobs"]) for _ in range("jobs" in report.series)),
        *((bound, report.series[bound.key]) for bound in BOUNDS if bound.key in report.series),
    ]
    rows = math.ceil(len(charts) / COLUMNS)
    width, height = COLUMNS * WIDTH, rows * HEIGHT + 24
    verdicts = {verdict.bound.key: verdict for verdict in report.verdicts}
    parts: list[str] = []
    for number, (bound, series) in enumerate(charts):
        x, y = number % COLUMNS * WIDTH, number // COLUMNS * HEIGHT
        parts.append(f'<g transform="translate({x} {y})">')
        parts += _chart(report, bound, series, verdicts.get(bound.key))
        parts.append("</g>")
    parts.append(f'<text x="{LEFT}" y="{height - 8}">{escape(_summary(report))}</text>')
    return svg(width, height, _summary(report), STYLE, parts)


def _summary(report: Report) -> str:
    told = f"{report.plan.minutes:g} minutes, {report.accepted:,} jobs"
    return f"{told}. Dotted: the node is killed. Shaded: what is judged, in one life."


def _chart(report: Report, bound: Bound, series: Series, verdict: Verdict | None) -> Iterator[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    seconds = max(report.seconds, series[-1][0])
    buckets = list(_buckets(series))
    top = rounded_up(max(high for _, _, _, high in buckets) / bound.factor) * bound.factor

    def x(at: float) -> float:
        return round(LEFT + (right - LEFT) * at / seconds, 1)

    def y(value: float) -> float:
        return round(bottom - (bottom - TOP) * value / top, 1)

    title = f"{bound.title}, {bound.unit}".removesuffix(", ")
    yield f'<text class="title" x="{LEFT}" y="{TOP - 10}">{escape(title)}</text>'
    if verdict:
        begin, end = x(report.plan.judged_from), x(report.plan.seconds)
        yield f'<rect class="judged" x="{begin}" y="{TOP}" width="{end - begin:.1f}" height="{bottom - TOP}"/>'
        word = "grows" if verdict.problem else "flat"
        said = f"{bound.shown(verdict.before)} → {bound.shown(verdict.after)}, {word}"
        yield f'<text x="{right}" y="{TOP - 10}" text-anchor="end">{said}</text>'
    yield f'<path class="frame" d="M{LEFT} {TOP}V{bottom}H{right}"/>'
    for at in report.kills:
        yield f'<path class="kill" d="M{x(at)} {TOP}V{bottom}"/>'
    upper = " ".join(f"{x(at)},{y(high)}" for at, _, _, high in buckets)
    lower = " ".join(f"{x(at)},{y(low)}" for at, low, _, _ in reversed(buckets))
    yield f'<polygon class="band" points="{upper} {lower}"/>'
    yield f'<polyline class="line" points="{" ".join(f"{x(at)},{y(middle)}" for at, _, middle, _ in buckets)}"/>'
    for value in (0, top / 2, top):
        yield f'<text x="{LEFT - 6}" y="{y(value) + 4}" text-anchor="end">{value / bound.factor:g}</text>'
    for part in (0.0, 0.5, 1.0):
        minutes = f"{part * seconds / 60:.1f}".removesuffix(".0") + " min" * (part == 1)
        anchor = "end" if part == 1 else "middle"  # the last one has a unit, and no room to the right
        yield f'<text x="{x(part * seconds)}" y="{HEIGHT - 6}" text-anchor="{anchor}">{minutes}</text>'


def _buckets(series: Series) -> Iterator[tuple[float, float, float, float]]:
    """Yield time, least, median and most of neighbouring samples."""
    size = max(1, math.ceil(len(series) / POINTS))
    for start in range(0, len(series), size):
        part = series[start : start + size]
        values = [value for _, value in part]
        yield statistics.mean(at for at, _ in part), min(values), statistics.median(values), max(values)
