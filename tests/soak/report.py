"""The report of a soak, as text and tables for a page."""

from soak.run import Report


def text(report: Report) -> str:
    """Return the figures of a soak, its verdicts as a table of Markdown, and its problems."""
    ended = ", ".join(f"{count:,} {status}" for status, count in sorted(report.ended.items()))
    faults = ", ".join(f"{name} {count}" for name, count in sorted(report.faults.items()))
    plan = report.plan
    lines = [
        "",
        f"{report.accepted:,} jobs in {report.seconds / 60:.1f} minutes on {plan.server}: {ended}",
        f"killed {len(report.kills)} times; {faults}; connections that broke meanwhile {report.broken}",
        f"judged from {plan.judged_from / 60:.1f} to {plan.minutes:g} minutes, in one life of the node",
        "",
        "| | at first | at last | growth allowed | |",
        "|---|---|---|---|---|",
    ]
    for verdict in report.verdicts:
        bound = verdict.bound
        name = f"{bound.title}, {bound.unit}".removesuffix(", ")
        cells = [name, *map(bound.shown, (verdict.before, verdict.after, verdict.allowed))]
        lines.append(f"| {' | '.join(cells)} | {'**grows**' if verdict.problem else 'flat'} |")
    left = "; ".join(f"{key} {before:.0f}, {after:.0f}" for key, (before, after) in report.left.items())
    lines += ["", f"idle before the first job, and after the last one: {left}"]
    if report.unseen:
        lines.append(f"deleted before they were looked at: {report.unseen} jobs")
    lines += [f"PROBLEM: {problem}" for problem in report.problems]
    return "\n".join([*lines, f"{len(report.problems)} problems"])
