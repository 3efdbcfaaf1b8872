"""``medssl check``: read every file of a dataset folder and report all problems."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medssl_monai.core import ConfigError
from medssl_monai.data.check import KINDS, CheckReport, Problem, check_dataset

_DESCRIPTION = """Read every file of a dataset folder and report all problems: missing, unreadable, empty, NaN or
infinite, masks that do not fit their image, labels outside 'labels', wrong number of channels, one subject in two
splits, the same content twice, paths leaving the folder, misspelt keys. The exit code is 0 when nothing is wrong, 1
when there are problems, 2 when there is no datalist to check."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``check`` to the ``medssl`` command."""
    parser = subparsers.add_parser(
        "check", help="read every file of a dataset folder and report all problems", description=_DESCRIPTION
    )
    parser.add_argument("folder", type=Path, help="dataset folder (with datalist.json)")
    parser.add_argument(
        "--in-channels", type=int, metavar="N", help="channels every image must have (default: as most images have)"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="threads that read (default: one for each core)")
    parser.add_argument("--json", action="store_true", help="write the report as JSON, for machines")
    parser.add_argument("--no-progress", action="store_true", help="no progress bar on stderr")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Check a dataset and print the report.

    Returns:
        0 when nothing is wrong, else 1.

    Raises:
        DataError: when there is no datalist.
        ConfigError: when an option is out of range.
    """
    for option in ("in_channels", "workers"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            raise ConfigError(f"--{option.replace('_', '-')} must be at least 1", found=value)
    report = check_dataset(
        arguments.folder,
        in_channels=arguments.in_channels,
        workers=arguments.workers,
        progress=not arguments.no_progress,
    )
    if arguments.json:
        print(json.dumps(report.to_json(), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        sys.stdout.write("\n".join(report_lines(report)) + "\n")
    return 0 if report.ok else 1


def report_lines(report: CheckReport) -> list[str]:
    """The report for people: what the dataset holds, then problems and notes by kind, one line each."""
    lines = _facts_lines(report)
    for title, found in (("", report.problems), ("Note: ", report.notes)):
        for kind, name in KINDS.items():
            members = [problem for problem in found if problem.kind == kind]
            if members:
                lines += ["", f"{title}{name} ({len(members)})", *_table(members)]
    number = len(report.problems)
    lines += ["", f"{number} problem{'s'[: number != 1]}." if number else "No problems found."]
    return lines


def _table(problems: Sequence[Problem]) -> list[str]:
    splits = max(len(problem.split) for problem in problems)
    files = min(max(len(problem.file) for problem in problems), 60)
    return [
        f"  {problem.split:<{splits}}  {problem.file:<{files}}  {problem.message}. {problem.advice}"
        for problem in problems
    ]


def _facts_lines(report: CheckReport) -> list[str]:
    facts: dict[str, Any] = report.facts
    if not facts:
        return [str(report.folder)]
    lines = [f"{facts['name'] or report.folder}: {facts['task'] or 'unknown task'}, {facts['files']} files read"]
    for split, found in facts["splits"].items():
        classes = ", ".join(f"{name} {number}" for name, number in found["classes"].items())
        lines.append(f"  {split:<10}  {found['items']} items of {found['subjects']} subjects  {classes}".rstrip())
    if "sizes" in facts:
        for rank, size in facts["sizes"].items():
            smallest, median, largest = (" x ".join(map(str, size[key])) for key in ("smallest", "median", "largest"))
            spread = smallest if smallest == largest else f"{smallest} to {largest}, median {median}"
            lines.append(f"  {rank:<10}  {size['images']} images of {spread}")
        channels, types = (", ".join(f"{value} ({n})" for value, n in facts[k].items()) for k in ("channels", "dtypes"))
        low, high = facts["intensities"]
        lines.append(f"  {'values':<10}  channels {channels}; type {types}; from {low:g} to {high:g}")
    return lines
