"""Arms of a comparison: chains of bundle stages run as processes, resumable, side by side, and their table."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medssl_monai.apps.run import stage_keys
from medssl_monai.core import (
    ConfigError,
    MedSSLError,
    did_you_mean,
    file_digest,
    make_folder,
    read_json,
    text_digest,
    write_json,
)
from medssl_monai.data.datalist import FILE_NAME as DATALIST_FILE
from medssl_monai.handlers.predictions import METRICS_FILE, PREDICTIONS_FILE
from medssl_monai.metrics import Interval, average_distributions, bootstrap_distribution

#: checkpoints that stages can go on from
_CHECKPOINTS = {"pretrain": "pretrain_checkpoint.pt", "train": "checkpoint.pt"}


class StageFailedError(MedSSLError, RuntimeError):
    """A stage of an arm ended with an error."""


@dataclass(frozen=True)
class Arm:
    """One way to train, as stages of a bundle with overrides.

    Attributes:
        name: name in tables and folder names.
        stages: the stages in order, the last one ``evaluate``.
        overrides: keys for all stages; a stage is given those it understands, and one that none understands is an
            error.
        overlays: overlays for all stages.
    """

    name: str
    stages: tuple[str, ...]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    overlays: tuple[str, ...] = ()


def run_arm(bundle: str, arm: Arm, folder: Path, threads: int = 1, deadline: float | None = None) -> bool:
    """Run what is missing of an arm's stages in ``folder``.

    A stage is complete when its record carries the digest of the command it was run with; a training stage that was
    stopped goes on from its checkpoint. A stage that is run makes those behind it incomplete, and one that is run with
    another command starts anew. The output of each stage is kept in ``<stage>.log``.

    Args:
        bundle: bundle name or folder.
        arm: the arm.
        folder: its run folder.
        threads: threads of computation.
        deadline: ``time.monotonic()`` after which no further stage is begun and a running one is stopped.

    Returns:
        Whether all stages are complete.

    Raises:
        StageFailedError: with the last lines of the stage's log.
        ConfigError: for a key that no stage understands.
    """
    make_folder(folder)
    understood = {key for stage in arm.stages for key in stage_keys(bundle, stage)}
    unknown = [key for key in arm.overrides if key.split("::")[0] not in understood]
    if unknown:
        raise ConfigError(
            f"no stage understands {unknown[0]!r}", where=arm.name, advice=did_you_mean(unknown[0], understood)
        )
    for position, stage in enumerate(arm.stages):
        command = _command(bundle, stage, arm, folder)
        digest, record = text_digest([*command[3:], _data_digest(arm)]), _record(folder, stage)
        if record["digest"] == digest and record["complete"]:
            continue
        # what later stages left rests on what this one is about to replace
        for later in arm.stages[position + 1 :]:
            _record_path(folder, later).unlink(missing_ok=True)
        if record["digest"] != digest:
            record = {"digest": digest, "complete": False, "seconds": 0.0}
            (folder / "models" / _CHECKPOINTS.get(stage, "none")).unlink(missing_ok=True)
        write_json(_record_path(folder, stage), record)
        if deadline is not None and time.monotonic() > deadline:
            return False
        start = time.monotonic()
        code = _run_process(command, folder / f"{stage}.log", threads, deadline)
        record["seconds"] += time.monotonic() - start
        record["complete"] = code == 0
        write_json(_record_path(folder, stage), record)
        if code is None:
            return False
        if code:
            log = folder / f"{stage}.log"
            tail = "\n".join(log.read_text(encoding="utf-8").splitlines()[-5:])
            raise StageFailedError(f"stage {stage} of {arm.name} failed:\n{tail}", where=log)
    return True


def _data_digest(arm: Arm) -> str:
    """Of the datalist, so that an arm on a dataset that has changed since is run again."""
    path = Path(str(arm.overrides.get("dataset_dir", ""))) / DATALIST_FILE
    return file_digest(path) if path.is_file() else ""


def _record_path(folder: Path, stage: str) -> Path:
    return folder / f"{stage}.stage.json"


def _record(folder: Path, stage: str) -> dict[str, Any]:
    path = _record_path(folder, stage)
    return read_json(path) if path.is_file() else {"digest": None, "complete": False, "seconds": 0.0}


def _run_process(command: list[str], log: Path, threads: int, deadline: float | None) -> int | None:
    """Exit code of a stage's process, ``None`` where the deadline stopped it."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    timeout = None if deadline is None else max(deadline - time.monotonic(), 0.0)
    with log.open("a", encoding="utf-8") as stream:
        try:
            return subprocess.run(
                command, stdout=stream, stderr=subprocess.STDOUT, env=environment, timeout=timeout, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            return None


def _command(bundle: str, stage: str, arm: Arm, folder: Path) -> list[str]:
    # JSON is YAML, so every plain value survives as it is
    known = stage_keys(bundle, stage)
    pairs = [f"{k}={json.dumps(v)}" for k, v in sorted(arm.overrides.items()) if k.split("::")[0] in known]
    if stage in _CHECKPOINTS:
        pairs.append("resume=true")
    overlays = [text for name in arm.overlays for text in ("--overlay", name)]
    return [
        sys.executable, "-m", "medssl_monai.apps", "run", bundle, stage, *pairs, *overlays, "--run-dir", str(folder),
    ]  # fmt: skip


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
    deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
    lock = threading.Lock()
    complete: dict[str, bool] = {}
    failures: list[MedSSLError] = []
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(run_arm, bundle, arm, folder / arm.name, threads, deadline): arm for arm in arms}
        for future in as_completed(futures):
            name = futures[future].name
            try:
                complete[name] = future.result()
            except MedSSLError as error:
                complete[name] = False
                failures.append(error)
            with lock:
                print(f"{name}: {'complete' if complete[name] else 'not complete'}", flush=True)
    if failures:
        raise failures[0]
    return complete


def arm_seconds(folder: Path) -> float:
    """Seconds that the stages of an arm took, all calls together."""
    return float(sum(read_json(path)["seconds"] for path in folder.glob("*.stage.json")))


def read_predictions(folder: Path) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    """Image names, subjects, labels (N,) and probabilities (N, C) of an arm's ``predictions.csv``."""
    with (folder / "eval" / PREDICTIONS_FILE).open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    classes = [key.removeprefix("probability_") for key in rows[0] if key.startswith("probability_")]
    probabilities = np.array([[float(row[f"probability_{name}"]) for name in classes] for row in rows])
    probabilities /= probabilities.sum(axis=1, keepdims=True)  # printed decimals do not add up to 1 exactly
    labels = np.array([classes.index(row["label"]) for row in rows])
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
