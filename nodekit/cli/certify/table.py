"""A certificate as Markdown, for a terminal and for a README."""

from collections import Counter
from collections.abc import Iterable, Iterator

from nodekit.cli.certify.rows import Certificate, Failure, Row
from nodekit.errors import NodekitError

START = "<!-- nodekit certify -->"
END = "<!-- /nodekit certify -->"

_HEAD = ("provider", "suite", "tests", "limits", "result")


def table(certificate: Certificate) -> str:
    """Format the first line with the verdict and the versions, then the rows, then the failures."""
    lines = [_first_line(certificate), "", _line(_HEAD), _line("---" for _ in _HEAD)]
    several = Counter((row.kind, row.provider, row.suite) for row in certificate.rows)
    lines += [_line(_cells(row, several[row.kind, row.provider, row.suite] > 1)) for row in certificate.rows]
    if certificate.failures:
        lines += [
            "",
            "What failed:",
            "",
            *(line for group in _grouped(certificate.failures) for line in _failure_lines(group)),
        ]
    return "\n".join(lines).rstrip() + "\n"


def _grouped(failures: Iterable[Failure]) -> list[list[Failure]]:
    """Group failures that have the same reason."""
    groups: dict[tuple[tuple[str, ...], str, str], list[Failure]] = {}
    for one in failures:
        groups.setdefault((one.providers, one.suite, one.text), []).append(one)
    return list(groups.values())


def _failure_lines(group: list[Failure]) -> Iterator[str]:
    where = ", ".join(f"`{name}`" for name in (*group[0].providers, group[0].suite) if name)
    tests = ", ".join(f"**{_one_line(failure.test)}**" for failure in group)
    yield f"- {where}{': ' * bool(where)}{tests}"
    yield ""
    yield "  ```text"
    yield from (f"  {line}".rstrip() for line in _unfenced(group[0].text))
    yield "  ```"
    yield ""


def between_marks(text: str, inside: str) -> str:
    """Replace the text between the two comments. Raise `NodekitError` if the comments are missing."""
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise NodekitError(f"it must have {START} and, below it, {END}; write each on a line of its own")
    return f"{before}{start}\n\n{inside.strip()}\n\n{end}{after}"


def _first_line(certificate: Certificate) -> str:
    api = f" (plugin API {certificate.api})" if certificate.api else ""
    loops = f" on {', '.join(certificate.backends)}" if certificate.backends else ""
    said = "certified" if certificate.certified else "not certified"
    return (
        f"{certificate.package} {certificate.version}: **{said}** by nodekit-compute "
        f"{certificate.nodekit}{api}, Python {certificate.python}{loops}, {certificate.date}"
    )


def _cells(row: Row, one_of_several: bool) -> list[str]:
    result = row.result if row.result in ("passed", "not run") else f"**{row.text}**"
    why = ": " + "; ".join(filter(None, (row.text, row.cure))) if row.result == "not run" else ""
    tests = f"{row.passed}/{row.total}" if row.total else "–"
    suites = " or ".join(f"`{suite}`" for suite in row.suite.split(" or "))
    suites += f" (`{row.tests.rpartition('::')[2]}`)" if one_of_several and row.tests else ""
    return [f"{row.kind} `{row.provider}`", suites, tests, "; ".join(row.limits) or "–", result + why]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(_one_line(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def _one_line(text: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _unfenced(text: str) -> list[str]:
    return text.replace("```", "'''").splitlines() or ["(no message)"]
