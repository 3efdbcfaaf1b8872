"""``docs/performance.md``, from the table of a run of the benchmarks."""

from __future__ import annotations

from typing import Any

_HEAD = """# Performance

What the pieces cost, and against what. This page is written by `make bench` from its measurements: change the
benchmarks (`scripts/benchmarks/`), not the page.

Ours and the peer run in turn on the same input with the same seeds; before the timing their results are asserted to be
equal (column *equal to*). *Ratio* is the median over the pairs of peer / ours, with its quartiles: above 1, ours is
faster. A dash means that there is no peer.
"""

_CLOCKS = {
    "wall": "Times are those of the clock on the wall. On a busy machine the ratios hold better than the milliseconds.",
    "cpu": "Times are processor time of the process on one thread, because the machine was busy with other work; those "
    "of the stages are of the clock on the wall, and long for that reason.",
}


def page(table: dict[str, Any], notes: dict[str, str]) -> str:
    """The page as Markdown.

    Args:
        table: what :func:`harness.to_json` gave.
        notes: a paragraph for each benchmark by name: what is measured and how to read it.
    """
    parts = [_HEAD, "## Machine\n", *_machine(table["machine"])]
    for name in dict.fromkeys(row["benchmark"] for row in table["rows"]):
        rows = [row for row in table["rows"] if row["benchmark"] == name]
        parts += [f"\n## {name.capitalize()}\n", notes[name] + "\n", *markdown(rows)]
    return "\n".join(parts) + "\n"


def markdown(rows: list[dict[str, Any]]) -> list[str]:
    """The rows of one benchmark as lines of a Markdown table."""
    peers, goals = any(row["peer"] for row in rows), any(row["goal"] for row in rows)
    head = ["what", "ours"] + ["peer", "peer's", "ratio", "equal to"] * peers + ["goal", "met"] * goals
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for row in rows:
        cells = [row["what"], _amount(row["ours"], row["unit"])]
        if peers:
            cells += _peer(row)
        if goals:
            cells += [row["goal"] or "-", {None: "-", True: "yes", False: "**no**"}[row["met"]]]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _peer(row: dict[str, Any]) -> list[str]:
    if row["peer"] is None:
        return ["-"] * 4
    low, high = row["quartiles"]
    ratio = f"{_number(row['ratio'])} ({_number(low)} to {_number(high)})"
    return [row["peer"], _amount(row["theirs"], row["unit"]), ratio, row["equal"] or "-"]


def _amount(value: float, unit: str) -> str:
    return f"{_number(value)} {unit}"


def _number(value: float) -> str:
    """Three significant digits, without exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _machine(facts: dict[str, Any]) -> list[str]:
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    accelerator = facts["accelerator"] or "no accelerator"
    other = "; ".join(f"{clock}: {', '.join(names)}" for clock, names in facts.get("other_clocks", {}).items())
    return [
        f"- {facts['processor']}, {facts['cores']} cores of which {facts['threads']} used, {facts['memory_gib']} GiB, "
        f"{accelerator}",
        f"- {versions}",
        f"- {facts['date']}, `{facts['command']}`; load of the machine at the start {facts['load_at_start']} "
        "(0 is quiet)",
        f"- {_CLOCKS[facts['clock']]}",
        *([f"- Measured by another clock ({other})."] if other else []),
    ]
