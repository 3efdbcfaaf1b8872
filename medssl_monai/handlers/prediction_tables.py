"""Reading back the predictions of labels that are each there or not, and joining those of several models by exam."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from medssl_monai.core import DataError, file_digest

_PROBABILITY, _TRUTH = "probability_", "label_"
_SHOWN = 5


@dataclass(frozen=True)
class PredictionTable:
    """Predictions of some exams.

    Attributes:
        path: the file (the first one, where several were joined).
        labels: L names.
        names: N exams.
        probabilities: (N, L).
        truth: 0/1 table (N, L); ``None`` where it is not known.
        subjects: N subject ids; an empty text where there is none.
        notes: N texts of the column ``differs``, empty where there is none.
        digests: SHA-256 of each file.
    """

    path: Path
    labels: list[str]
    names: list[str]
    probabilities: np.ndarray
    truth: np.ndarray | None
    subjects: list[str]
    notes: list[str]
    digests: list[str]

    def take(self, names: Sequence[str]) -> PredictionTable:
        """The exams ``names`` in this order."""
        place = {name: row for row, name in enumerate(self.names)}
        rows = [place[name] for name in names]
        return PredictionTable(
            self.path, self.labels, list(names), self.probabilities[rows],
            None if self.truth is None else self.truth[rows], [self.subjects[row] for row in rows],
            [self.notes[row] for row in rows], self.digests,
        )  # fmt: skip


def read_predictions(path: str | Path, labels: Sequence[str], *, with_truth: bool) -> PredictionTable:
    """Read ``predictions.csv`` or ``inference.csv`` of a model of these labels.

    Args:
        path: the file.
        labels: names of the labels, in the order the file must have.
        with_truth: the file must hold the labels' true values too.

    Raises:
        DataError: when the file is missing, not such a table, empty, of other labels or of another order, names an exam
            twice, or holds a probability outside [0, 1] or a true value that is not 0 or 1.
    """
    path = Path(path)
    header, rows = _read_rows(path)
    _check_labels(path, header, list(labels))
    if with_truth and any(f"{_TRUTH}{name}" not in header for name in labels):
        missing = [f"{_TRUTH}{name}" for name in labels if f"{_TRUTH}{name}" not in header]
        raise DataError(
            "the true labels are not in this table", where=path, found=f"columns {', '.join(header)}",
            expected=f"columns {', '.join(missing)} too", advice="The evaluate stage writes them.",
        )  # fmt: skip
    names = [row["image"] for row in rows]
    repeated = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if repeated:
        raise DataError(
            f"exams stand in this table more than once: {_some(repeated)}", where=path, expected="one row an exam",
            advice="Evaluate again; a table must not be put together from several.",
        )  # fmt: skip
    truth = None
    if with_truth:
        truth = np.array([[_bit(path, row, f"{_TRUTH}{name}") for name in labels] for row in rows], dtype=np.int64)
    return PredictionTable(
        path,
        list(labels),
        names,
        np.array([[_probability(path, row, f"{_PROBABILITY}{name}") for name in labels] for row in rows]),
        truth,
        [row.get("subject", "") for row in rows],
        [row.get("differs", "") for row in rows],
        [file_digest(path)],
    )


def join_labels(tables: Sequence[PredictionTable], whose: str) -> PredictionTable:
    """One table of all labels from tables of a label each, of the same exams.

    Args:
        tables: one a label, in the labels' order.
        whose: name of the plane, for messages.

    Raises:
        DataError: when an exam is missing from one of them, or has another subject there.
    """
    first = tables[0]
    for other in tables[1:]:
        for one, two in ((first, other), (other, first)):
            missing = sorted(set(one.names) - set(two.names))
            if missing:
                raise DataError(
                    f"{whose}: exams without a prediction of {two.labels[0]}: {_some(missing)}", where=two.path,
                    found=f"{len(two.names)} exams", expected=f"those of {one.path}",
                    advice="Evaluate (or predict) the same exams with the models of all labels.",
                )  # fmt: skip
    aligned = [table.take(first.names) for table in tables]
    for other in aligned[1:]:
        _check_same(first.names, first.subjects, other.subjects, "subject", first.path, other.path)
    truths = [table.truth for table in aligned]
    known = all(one is not None for one in truths)
    notes = ["; ".join(dict.fromkeys(text for text in texts if text)) for texts in zip(*(t.notes for t in aligned))]
    return PredictionTable(
        first.path,
        [name for table in tables for name in table.labels],
        first.names,
        np.concatenate([table.probabilities for table in aligned], axis=1),
        np.concatenate([one for one in truths if one is not None], axis=1) if known else None,
        first.subjects,
        notes,
        [digest for table in tables for digest in table.digests],
    )


def align_exams(
    tables: Mapping[str, PredictionTable], *, missing: str
) -> tuple[list[str], dict[str, PredictionTable], np.ndarray]:
    """Join the planes' tables by exam.

    Args:
        tables: by plane.
        missing: ``error``, or ``average`` to keep exams that some planes lack.

    Returns:
        N exams in the order of first appearance, each plane's table of the exams it has in that order, and which plane
        has which exam (planes, N).

    Raises:
        DataError: naming the exams that a plane lacks, or whose subject or true labels differ between planes.
    """
    names = list(dict.fromkeys(name for table in tables.values() for name in table.names))
    held = {plane: set(table.names) for plane, table in tables.items()}
    present = np.array([[name in held[plane] for name in names] for plane in tables])
    for row, (plane, table) in enumerate(tables.items()):
        lacking = [name for name, there in zip(names, present[row]) if not there]
        if lacking and missing == "error":
            raise DataError(
                f"{len(lacking)} of {len(names)} exams have no prediction of the {plane} plane: {_some(lacking)}",
                where=table.path,
                advice="Evaluate (or predict) the same exams in every plane; with missing_planes=average an exam's "
                "weights are shared among the planes it has.",
            )  # fmt: skip
    aligned = {plane: table.take([n for n in names if n in held[plane]]) for plane, table in tables.items()}
    seen: dict[str, tuple[Path, str, tuple[int, ...]]] = {}
    for table in aligned.values():
        for row, name in enumerate(table.names):
            truth = () if table.truth is None else tuple(int(value) for value in table.truth[row])
            path, subject, other = seen.setdefault(name, (table.path, table.subjects[row], truth))
            _check_same([name], [subject], [table.subjects[row]], "subject", path, table.path)
            _check_same([name], [str(other)], [str(truth)], "true labels", path, table.path)
    return names, aligned, present


def _check_same(
    names: Sequence[str], one: Sequence[str], two: Sequence[str], what: str, first: Path, second: Path
) -> None:
    for name, a, b in zip(names, one, two):
        if a != b:
            raise DataError(
                f"exam {name!r} has another {what} than in {first}", where=second, found=b or "none",
                expected=a or "none",
                advice="The tables are of different datasets, or of different versions of one: evaluate all again.",
            )  # fmt: skip


def _read_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    if not path.is_file():
        raise DataError(
            "no such table of predictions", where=path,
            advice="The evaluate stage writes predictions.csv, and validation_predictions.csv of the validation split; "
            "the inference stage writes inference.csv. Run it for this plane, or name the folder it wrote to.",
        )  # fmt: skip
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream, restkey="", strict=True)
            header, rows = list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot be read as a table ({error})", where=path) from error
    if "image" not in header:
        _not_a_table(path, header)
    for number, row in enumerate(rows, start=2):
        if "" in row or any(value is None for value in row.values()):
            raise DataError(
                f"line {number} has another number of columns than the header", where=path,
                advice="The file was cut short or edited: write it anew.",
            )  # fmt: skip
    if not rows:
        raise DataError("holds no prediction", where=path, advice="Evaluate exams first.")
    return header, rows


def _check_labels(path: Path, header: Sequence[str], labels: list[str]) -> None:
    found = [name.removeprefix(_PROBABILITY) for name in header if name.startswith(_PROBABILITY)]
    if not found:
        _not_a_table(path, header)
    if found == labels:
        return
    if sorted(found) == sorted(labels):
        what, advice = "the labels stand in another order", "Give `labels` in one order in all stages."
    else:
        what, advice = "the table is of other labels", "Name the folder of the model of these labels, or mend `labels`."
    raise DataError(what, where=path, found=", ".join(found), expected=", ".join(labels), advice=advice)


def _not_a_table(path: Path, header: Sequence[str]) -> NoReturn:
    raise DataError(
        "is no table of predictions", where=path, found=f"columns {', '.join(header) or 'none'}",
        expected="columns image and probability_NAME of each label",
    )  # fmt: skip


def _probability(path: Path, row: Mapping[str, str], column: str) -> float:
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise DataError(
            f"{column} of exam {row['image']!r} is no probability", where=path, found=row[column] or "nothing",
            expected="a number from 0 to 1", advice="Logits must go through the sigmoid first.",
        )  # fmt: skip
    return value


def _bit(path: Path, row: Mapping[str, str], column: str) -> int:
    if row[column] not in ("0", "1"):
        raise DataError(
            f"{column} of exam {row['image']!r} is no label", where=path, found=row[column] or "nothing",
            expected="0 or 1",
        )  # fmt: skip
    return int(row[column])


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
