"""Runs all checks on one bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from medssl_monai.apps.bundle_check.cycles import cycle_problems
from medssl_monai.apps.bundle_check.execute import network_problems, resolved_property_problems, working_copy
from medssl_monai.apps.bundle_check.expressions import expression_problems
from medssl_monai.apps.bundle_check.files import file_problems, licence_problems
from medssl_monai.apps.bundle_check.house import study_problems, vocabulary_problems
from medssl_monai.apps.bundle_check.metadata import metadata_problems, schema_problems
from medssl_monai.apps.bundle_check.quiet import cause, quiet
from medssl_monai.apps.bundle_check.references import key_problems, reference_problems
from medssl_monai.apps.bundle_check.report import BundleReport, Problem
from medssl_monai.apps.bundle_check.source import Bundle, Stage, read_bundle
from medssl_monai.apps.bundle_check.targets import target_problems
from medssl_monai.apps.bundle_check.traps import logging_problems, property_problems, trap_problems
from medssl_monai.apps.bundle_check.weights import fit_problems, weight_problems


def check_bundle(
    folder: str | Path,
    *,
    schema: Path | None = None,
    schema_note: str = "",
    data: Path | None = None,
    run: bool = True,
) -> BundleReport:
    """Check a bundle's folder; nothing is written into it, and a check that fails is a problem of its own.

    Args:
        folder: the bundle.
        schema: MONAI's metadata schema; ``None`` leaves it out, with a note.
        schema_note: why there is none.
        data: a dataset on which the objects of every stage are built.
        run: build the network and the stages' objects, which executes what the bundle says; without it the bundle is
            read, and installed packages that it names are imported.
    """
    bundle = read_bundle(Path(folder).resolve())
    report = BundleReport(bundle.root, str(bundle.metadata.get("version", "")), bundle.house)
    report.add(bundle.metadata_file.problems)
    for file in bundle.configs.values():
        report.add(file.problems)
    guard = _Guard(report)
    guard("files", lambda: file_problems(bundle, report.notes))
    guard("weights", lambda: weight_problems(bundle))
    guard("licences", lambda: licence_problems(bundle, report.notes))
    guard("metadata", lambda: metadata_problems(bundle))
    _check_schema(guard, bundle, schema, schema_note)
    guard("logging", lambda: logging_problems(bundle))
    told: list[tuple[str, str]] = []
    for stage in sorted(bundle.stages.values(), key=lambda stage: len(stage.files)):
        for name, found in _stage_checks(bundle, stage, report.notes):
            guard(f"{name} of {stage.file.name}", partial(_once, stage, found, told))
        report.add(problem for problem in stage.problems if not stage.is_meant(problem.key))
    if bundle.house:
        guard("study", lambda: study_problems(bundle))
    if run and not _unsound(bundle):
        guard("execution", lambda: _execute(bundle, data, report.notes))
    else:
        why = "a file cannot be read" if run else "--no-run"
        report.notes.append(f"nothing was built: {why}")
    return report


def _stage_checks(bundle: Bundle, stage: Stage, notes: list[str]) -> list[tuple[str, Callable[[], Iterable[Problem]]]]:
    checks: list[tuple[str, Callable[[], Iterable[Problem]]]] = [
        ("keys", lambda: key_problems(bundle, stage, notes)),  # first: tells the others what is only misspelt
        ("traps", lambda: trap_problems(bundle, stage, notes)),
        ("expressions", lambda: expression_problems(bundle, stage)),
        ("references", lambda: reference_problems(bundle, stage)),
        ("cycles", lambda: cycle_problems(stage)),
        ("targets", lambda: target_problems(bundle, stage)),
        ("properties", lambda: property_problems(stage)),
    ]
    if bundle.house:
        checks.append(("vocabulary", lambda: vocabulary_problems(stage)))
    return checks


def _once(stage: Stage, check: Callable[[], Iterable[Problem]], told: list[tuple[str, str]]) -> Iterator[Problem]:
    """Without what a merged stage inherits from the file that it overrides, which has been told there."""
    for problem in check():
        if len(stage.files) == 1:
            told.append((problem.key, problem.what))
        elif (problem.key, problem.what) in told:
            continue
        yield problem


def _check_schema(guard: _Guard, bundle: Bundle, schema: Path | None, note: str) -> None:
    if schema is None:
        guard.report.notes.append(f"skipped: MONAI's metadata schema ({note or 'not given'})")
    elif find_spec("jsonschema") is None:
        guard.report.notes.append("skipped: MONAI's metadata schema (the package jsonschema is not installed)")
    elif bundle.metadata_file.content is not None:
        told = {problem.key for problem in guard.report.problems if problem.file == bundle.metadata_file.name}
        guard("schema", lambda: schema_problems(bundle, schema, told))


def _unsound(bundle: Bundle) -> bool:
    return any(file.content is None for file in [bundle.metadata_file, *bundle.configs.values()])


def _execute(bundle: Bundle, data: Path | None, notes: list[str]) -> list[Problem]:
    with working_copy(bundle) as root:
        return [
            *network_problems(bundle, root, notes),
            *fit_problems(bundle, root, notes),
            *resolved_property_problems(bundle, root, data, notes),
        ]


class _Guard:
    """Runs a check; one that fails itself becomes a problem with its cause."""

    def __init__(self, report: BundleReport) -> None:
        self.report = report

    def __call__(self, name: str, check: Callable[[], Iterable[Problem]]) -> None:
        found: list[Problem] = []
        try:
            with quiet():
                for problem in check():
                    found.append(problem)  # one by one: what was found before a failure is kept
        except (Exception, SystemExit) as error:
            mend = "What it would have found is not in this list."
            found.append(Problem("MONAI", ".", "", f"the check of {name} stopped ({cause(error)})", mend))
        self.report.add(found)
