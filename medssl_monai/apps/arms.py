"""Arms of a comparison: chains of bundle stages run as processes, resumable, side by side, and their table."""

from __future__ import annotations

import csv
import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml

from medssl_monai import __version__
from medssl_monai.apps._arm import CHECKPOINTS, PROTOCOL_STEP, Arm, refuse_unknown_keys, step_command, step_digest
from medssl_monai.apps.processes import Stop, run_process
from medssl_monai.core import (
    DataError,
    MedSSLError,
    bundle_dir,
    file_digest,
    make_folder,
    read_json,
    text_digest,
    write_json,
)
from medssl_monai.handlers.predictions import METRICS_FILE, PREDICTIONS_FILE
from medssl_monai.metrics import Interval, average_distributions, bootstrap_distribution
from medssl_monai.metrics.label_calibration import as_label_table

Key = TypeVar("Key")


class StageFailedError(MedSSLError, RuntimeError):
    """A stage of an arm ended with an error."""


#: one run at a time prepares what several arms share; by folder
_SHARED: dict[Path, threading.Lock] = defaultdict(threading.Lock)


def run_arm(
    bundle: str,
    arm: Arm,
    folder: Path,
    threads: int = 1,
    stop: Stop | None = None,
) -> bool:
    """Run what is missing of an arm's stages and protocols in ``folder``, and before them of the arm it shares.

    A stage is complete when it came to its end, its results are as it left them and its record carries the digest of
    what it was run with (command, overlays, dataset with its images); a training stage that was stopped goes on from
    its checkpoint. A stage that is run makes those behind it incomplete, and one that is run with another command or
    dataset starts anew. The record keeps the versions of the code that have worked at the stage (:func:`code_version`);
    other code alone runs nothing again. The output of each stage is kept in ``<stage>.log``.

    Args:
        bundle: bundle name or folder.
        arm: the arm.
        folder: its run folder.
        threads: threads of computation.
        stop: when to begin no further stage and end a running one (see
            :func:`~medssl_monai.apps.processes.run_process`).

    Returns:
        Whether all stages are complete.

    Raises:
        StageFailedError: with the last lines of the stage's log.
        ConfigError: for a key that no stage understands.
    """
    refuse_unknown_keys(bundle, arm)
    if arm.shared is not None and arm.shared.steps:
        place = arm.encoder_folder(folder)
        with _SHARED[place]:
            if not run_arm(bundle, arm.shared, place, threads, stop):
                return False
    for position, stage in enumerate(arm.steps):
        digest, record = step_digest(bundle, stage, arm, folder), _record(folder, stage)
        if record["digest"] == digest and _done(record, folder):
            continue
        if stop is not None and stop.reached:
            return False
        make_folder(folder)
        # what later stages left rests on what this one is about to replace
        for later in arm.steps[position + 1 :]:
            _record_path(folder, later).unlink(missing_ok=True)
        if record["digest"] != digest:
            record = {"digest": digest, "complete": False, "seconds": 0.0, "code": []}
            _forget_checkpoints(folder, stage)
        write_json(_record_path(folder, stage), record)
        start, code_now = time.monotonic(), code_version(bundle)
        code = run_process(step_command(bundle, stage, arm, folder), folder / f"{stage}.log", threads, stop)
        record["seconds"] += time.monotonic() - start
        record["complete"] = code == 0
        record["outputs"] = _result_digests(folder, _result_files(stage, arm)) if code == 0 else {}
        record["code"] = list(dict.fromkeys([*record.get("code", []), code_now]))
        write_json(_record_path(folder, stage), record)
        if code is None:
            return False
        if code:
            log = folder / f"{stage}.log"
            tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
            raise StageFailedError(f"stage {stage} of {arm.name} failed:\n{tail}", where=log)
    return True


def arm_complete(bundle: str, arm: Arm, folder: Path) -> bool:
    """Whether every step of an arm is complete, with settings and dataset as they are now and its results whole."""
    if arm.shared is not None and not arm_complete(bundle, arm.shared, arm.encoder_folder(folder)):
        return False
    records = {step: _record(folder, step) for step in arm.steps}
    return all(
        _done(record, folder) and record["digest"] == step_digest(bundle, step, arm, folder)
        for step, record in records.items()
    )


def results_whole(folder: Path) -> bool:
    """Whether an arm's figures and predictions are there as evaluation and protocols left them."""
    records = [_record(folder, step) for step in _JUDGING if _record_path(folder, step).is_file()]
    return bool(records) and all(_done(record, folder) for record in records)


def result_sources(folder: Path) -> list[str]:
    """Where a complete run's figures come from: ``""`` for evaluation, else the protocol's name."""
    found = []
    for step in _JUDGING:
        for name in _record(folder, step).get("outputs", {}):
            if Path(name).name == PREDICTIONS_FILE:
                found.append(Path(name).parent.name)
    return found


def result_folder(folder: Path, source: str = "") -> Path:
    """Folder of the figures of a run by evaluation, or by a protocol."""
    return folder / "eval" / PROTOCOL_STEP / source if source else folder / "eval"


#: steps that leave figures
_JUDGING = ("evaluate", PROTOCOL_STEP)


def _done(record: Mapping[str, Any], folder: Path) -> bool:
    """Whether a step came to its end and nothing of its results was lost or changed since."""
    if not record["complete"] or not record.get("outputs"):
        return bool(record["complete"])
    return bool(record["outputs"] == _result_digests(folder, record["outputs"]))


def _result_files(step: str, arm: Arm) -> list[str]:
    """The results of a step, relative to ``eval``."""
    names = (METRICS_FILE, PREDICTIONS_FILE)
    if step == PROTOCOL_STEP:
        return [f"{PROTOCOL_STEP}/{protocol}/{name}" for protocol in arm.protocols for name in names]
    return list(names) if step == "evaluate" else []


def _result_digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    paths = {name: folder / "eval" / name for name in names}
    return {name: file_digest(path) for name, path in paths.items() if path.is_file()}


def arm_code(folder: Path) -> list[str]:
    """The versions of the code that have worked at an arm's stages."""
    records = [read_json(path) for path in sorted(folder.glob("*.stage.json"))]
    return list(dict.fromkeys(version for record in records for version in record.get("code", [])))


def code_version(bundle: str) -> str:
    """Version and twelve digits of a hash of the package's code and the bundle's configuration (comments aside)."""
    package = Path(__file__).resolve().parents[1]
    parts = [text for path in sorted(package.rglob("*.py")) for text in (path.name, path.read_text(encoding="utf-8"))]
    for path in sorted((bundle_dir(bundle) / "configs").glob("*.y*ml")):
        if path.stem != "study":
            parts += [path.name, json.dumps(yaml.safe_load(path.read_text(encoding="utf-8")), default=str)]
    return f"{__version__}+{text_digest(parts)[:12]}"


def _forget_checkpoints(folder: Path, stage: str) -> None:
    """Remove what a stage would go on from, and the checkpoints before it."""
    if stage in CHECKPOINTS:
        for path in (folder / "models").glob(f"{Path(CHECKPOINTS[stage]).stem}*"):
            path.unlink(missing_ok=True)


def _record_path(folder: Path, stage: str) -> Path:
    return folder / f"{stage}.stage.json"


def _record(folder: Path, stage: str) -> dict[str, Any]:
    path = _record_path(folder, stage)
    return read_json(path) if path.is_file() else {"digest": None, "complete": False, "seconds": 0.0, "code": []}


def run_arms(
    bundle: str,
    arms: Iterable[Arm],
    folder: Path,
    jobs: int = 1,
    threads: int = 1,
    max_minutes: float | None = None,
) -> dict[str, bool]:
    """Run arms side by side, each in ``folder/<name>``; prints a line when one ends.

    Returns:
        For each arm whether it is complete; an incomplete one goes on in the next call.

    Raises:
        StageFailedError: of the first arm that failed, when the others have ended.
    """
    places = {arm.name: (arm, folder / arm.name) for arm in arms}
    complete: dict[str, bool] = {}
    failures: list[MedSSLError] = []
    for name, result in run_side_by_side(bundle, places, jobs, threads, Stop(max_minutes)):
        complete[name] = result is True
        if isinstance(result, MedSSLError):
            failures.append(result)
        print(f"{name}: {'complete' if complete[name] else 'not complete'}", flush=True)
    if failures:
        raise failures[0]
    return complete


def run_side_by_side(
    bundle: str, places: Mapping[Key, tuple[Arm, Path]], jobs: int, threads: int, stop: Stop
) -> Iterator[tuple[Key, bool | MedSSLError]]:
    """Run arms in their folders, begun in the order given, and yield each as it ends.

    What is running is stopped where the caller leaves early (an exception, or a generator that is closed).

    Args:
        bundle: bundle name or folder.
        places: by any key, an arm and its run folder.
        jobs: how many run at a time.
        threads: threads of computation of each.
        stop: when to begin no further stage and end the running ones.

    Yields:
        A key and whether its arm is complete, or its error.
    """
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(run_arm, bundle, *place, threads, stop): key for key, place in places.items()}
        try:
            for future in as_completed(futures):
                try:
                    result: bool | MedSSLError = future.result()
                except MedSSLError as error:
                    result = error
                yield futures[future], result
        finally:
            if not all(future.done() for future in futures):
                stop.request()


def arm_seconds(folder: Path) -> float:
    """Seconds that the stages of an arm took, all calls together."""
    return float(sum(read_json(path)["seconds"] for path in folder.glob("*.stage.json")))


def read_predictions(folder: Path, source: str = "") -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    """Image names, subjects, labels and probabilities (N, C) of an arm's ``predictions.csv``.

    Labels are class indices (N,), or a 0/1 table (N, C) of labels that are each there or not.

    Args:
        folder: the arm's folder.
        source: a protocol; empty for those of its evaluate stage.

    Raises:
        DataError: when the file is missing, holds no rows, or is not that of a classifier.
    """
    path = result_folder(folder, source) / PREDICTIONS_FILE
    if not path.is_file():
        raise DataError(
            "no predictions here", where=path,
            advice="Run the evaluate stage again; in a study remove this run's folder first.",
        )  # fmt: skip
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    if not rows:
        raise DataError("the file holds no rows", where=path, advice="Run the evaluate stage again.")
    classes = [key.removeprefix("probability_") for key in rows[0] if key.startswith("probability_")]
    exclusive = "label" in rows[0]
    kind = "exclusive classes" if exclusive else "labels that are each there or not"
    try:
        probabilities = np.array([[float(row[f"probability_{name}"]) for name in classes] for row in rows])
        labels = (
            np.array([classes.index(row["label"]) for row in rows])
            if exclusive
            else as_label_table([[int(row[f"label_{name}"]) for name in classes] for row in rows], len(classes))
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"not the predictions of a classifier of {kind} ({error})", where=path,
            expected="columns image, subject, label (a class name) and probability_<class>; or label_<name> (0 or 1) "
            "and probability_<name> of each label",
        ) from error  # fmt: skip
    if exclusive:
        probabilities /= probabilities.sum(axis=1, keepdims=True)  # printed decimals do not add up to 1 exactly
    return [row["image"] for row in rows], [row["subject"] or row["image"] for row in rows], labels, probabilities


def paired_difference(metric: str, pairs: Sequence[tuple[Path, Path]], seed: int = 0) -> Interval:
    """Difference a - b of a metric, averaged over pairs of runs (seeds) on the same test images.

    Subjects are resampled jointly over all runs, so that the interval is that of the average.
    """
    reference, subjects, labels, _ = read_predictions(pairs[0][0])
    differences = []
    for pair in pairs:
        sides = []
        for folder in pair:
            names, _, _, probabilities = read_predictions(folder)
            order = {name: index for index, name in enumerate(names)}
            aligned = probabilities[[order[name] for name in reference]]
            sides.append(bootstrap_distribution(metric, labels, aligned, groups=subjects, seed=seed))
        differences.append(sides[0] - sides[1])
    return average_distributions(differences).interval((5, 95))


def format_entry(entry: Mapping[str, Any]) -> str:
    """``0.812 [0.774, 0.845]``: an estimate with its 95 % interval, as tables show it."""
    if entry["estimate"] is None:
        return "undefined"
    interval = entry.get("interval_95")
    return f"{entry['estimate']:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def results_table(folder: Path, arms: Sequence[str], metrics: Mapping[str, str]) -> list[list[str]]:
    """Rows of a table: a header, then each arm with labels used, metrics and minutes."""
    rows = [["arm", "labels (train + validation)", *metrics.values(), "minutes"]]
    for name in arms:
        report = read_json(folder / name / "eval" / METRICS_FILE)
        counts = report["label_counts"]
        used = f"{counts['n_labels_training']} + {counts['n_labels_validation']}"
        figures = [format_entry(report["metrics"][metric]) for metric in metrics]
        rows.append([name, used, *figures, f"{arm_seconds(folder / name) / 60:.1f}"])
    return rows


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, aligned so that it reads well as plain text too."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
