"""Files of organ segmentation: label maps in the scan's geometry, tables of organs."""

from __future__ import annotations

import csv
import gzip
import io
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import nibabel as nib
import numpy as np

from medssl_monai.core import DataError, OutputError, atomic_path, write_text
from medssl_monai.data.readers import IMAGE_SUFFIXES
from medssl_monai.metrics import OrganScore
from medssl_monai.metrics.segmentation import CASES

MASK_SUFFIX = ".nii.gz"
_SCORES = ("case", "dice", "hd95_mm", "volume_ml", "true_volume_ml", "volume_error_ml", "volume_error_percent")
_ORTHOGONAL = 1e-4


def stem(name: str) -> str:
    """A scan's name without the ending of an image."""
    ending = max((one for one in IMAGE_SUFFIXES if name.lower().endswith(one)), key=len, default="")
    return name[: len(name) - len(ending)]


def like_named(loader: Any) -> frozenset[str]:
    """Names of a loader's scans that differ in their ending only, ``scan.nii.gz`` and ``scan.mha``, say.

    All of the dataset's are looked at, so that every process of a run finds the same.
    """
    names = [str(record["name"]) for record in getattr(getattr(loader, "dataset", None), "data", ())]
    numbers = Counter(stem(name) for name in names)
    return frozenset(name for name in names if numbers[stem(name)] > 1)


def case_file(
    folder: Path, name: str, suffix: str, source: str | Path | None = None, others: Collection[str] = ()
) -> Path:
    """Where a scan's result goes: its relative path below ``folder``, with the ending of an image replaced.

    Args:
        folder: the output folder.
        name: the scan's name, its path relative to the dataset.
        suffix: the new ending.
        source: file the scan was read from.
        others: scans that keep their ending before the new one (:func:`like_named`).

    Raises:
        OutputError: when the name leads out of the folder, or the result would replace the scan.
    """
    relative = PurePath((name if name in others else stem(name)) + suffix)
    if relative.is_absolute() or ".." in relative.parts:
        raise OutputError(
            "the scan's name leads out of the output folder", where=folder, found=name, expected="a relative path"
        )
    path = folder / relative
    if source is not None and path.resolve() == Path(source).resolve():
        raise OutputError(
            "the result would replace the scan", where=path,
            advice="Name an output_dir that is not the folder of the scans.",
        )  # fmt: skip
    return path


def write_label_map(path: str | Path, labels: np.ndarray, affine: np.ndarray) -> None:
    """Write a label map as compressed NIfTI, the same bytes every time, in the smallest unsigned type that holds it.

    Args:
        path: the file, ``.nii.gz``.
        labels: (X, Y, Z), whole numbers of at least 0.
        affine: (4, 4), voxels to RAS millimetres.

    Raises:
        OutputError: when it cannot be written.
    """
    kind = np.min_scalar_type(int(labels.max(initial=0)))
    volume: Any = nib.Nifti1Image(labels.astype(kind), affine)  # type: ignore[no-untyped-call]
    volume.header.set_xyzt_units("mm")
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    # a quaternion knows no shear: of a tilted gantry only the sform is true
    upright = np.abs(axes.T @ axes - np.eye(3)).max() < _ORTHOGONAL
    volume.set_qform(affine if upright else None, int(upright))
    volume.set_sform(affine, 1)
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(volume.to_bytes(), 6, mtime=0))


def score_columns(scores: OrganScore, prefix: str = "") -> dict[str, Any]:
    """Cells of an organ's scores, by column; ``prefix`` tells protocols apart."""
    return {f"{prefix}{name}": getattr(scores, name) for name in _SCORES}


def write_table(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows of the same columns as CSV; what is ``None`` is left empty.

    Raises:
        OutputError: when it cannot be written.
    """
    rows = list(rows)
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(rows[0] if rows else ())
    writer.writerows([_cell(value) for value in row.values()] for row in rows)
    write_text(path, stream.getvalue())


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return int(value)
    return f"{value:.9g}" if isinstance(value, float) else value


def read_organ_scores(path: str | Path, protocol: str = "blind") -> tuple[list[str], list[str], list[list[OrganScore]]]:
    """Read back ``predictions.csv`` of a segmentation, to compare models or to join folds.

    Args:
        path: the file.
        protocol: ``blind`` or ``paper``.

    Returns:
        N names, N subjects (the name where there is none) and the scores of each scan, organs in the file's order.

    Raises:
        DataError: when the file is missing, empty, no such table, or lacks the protocol.
    """
    path, prefix = Path(path), "" if protocol == "blind" else f"{protocol}_"
    advice = "The evaluate stage of a segmentation bundle writes it as predictions.csv."
    if not path.is_file():
        raise DataError("no such table of scores", where=path, advice=advice)
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        header, rows = list(reader.fieldnames or ()), list(reader)
    needed = ["image", "subject", "organ", *(f"{prefix}{name}" for name in _SCORES[:5])]
    missing = [name for name in needed if name not in header]
    if missing or not rows:
        raise DataError(
            f"not a table of organs' scores by protocol {protocol}", where=path,
            found=f"no column {', '.join(missing)}" if missing else "no row", expected="one row a scan and organ",
            advice=advice,
        )  # fmt: skip
    scans: dict[str, tuple[str, list[OrganScore]]] = {}
    for number, row in enumerate(rows, start=2):
        _, scores = scans.setdefault(row["image"], (row["subject"] or row["image"], []))
        try:
            scores.append(_score(row, prefix))
        except (TypeError, ValueError) as error:
            raise DataError(f"line {number} cannot be read ({error})", where=path, advice=advice) from error
    return list(scans), [subject for subject, _ in scans.values()], [scores for _, scores in scans.values()]


def _score(row: Mapping[str, str], prefix: str) -> OrganScore:
    case, *texts = (row[f"{prefix}{name}"] for name in _SCORES[:5])
    if case not in CASES:
        raise ValueError(f"case is {case!r}, expected one of {', '.join(CASES)}")
    dice, hd95, volume, true = (float(text) if text else None for text in texts)
    if volume is None or true is None:
        raise ValueError("a volume is missing")
    return OrganScore(row["organ"], case, dice, hd95, volume, true)


def organ_rows(organs: Mapping[int, str], columns: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row an organ: its name and value, then its further columns."""
    return [{"organ": name, "label": value, **more} for (value, name), more in zip(organs.items(), columns)]
