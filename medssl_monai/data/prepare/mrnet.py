"""MRNet (Bien et al. 2018, doi:10.1371/journal.pmed.1002699): knee MR exams of three planes with three labels."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from medssl_monai.core import DataError
from medssl_monai.data.datalist import Split
from medssl_monai.data.prepare.layout import PREPARERS, Draft, Entry, Preparer, option
from medssl_monai.data.prepare.source import Material, brief, path_inside, raise_problems, sorted_entries
from medssl_monai.data.prepare.stacks import AXES, npy_stack
from medssl_monai.data.prepare.tabular import plain, read_table

PLANES = ("sagittal", "coronal", "axial")
LABELS = ("abnormal", "acl", "meniscus")
LICENSE = (
    "Stanford University School of Medicine MRNet Dataset Research Use Agreement: personal, non-commercial research "
    "only; no redistribution of the data or parts of it; no attempt to identify patients. Read and accept it at "
    "https://stanfordmlgroup.github.io/competitions/mrnet/"
)
_PAPER = (
    "the published validation part is `validation` and there is no test part: whatever is chosen on it (checkpoint, "
    "ensemble weights, thresholds) and then measured on it is optimistic"
)


@PREPARERS.register("mrnet")
@dataclass(frozen=True, kw_only=True)
class MrnetPreparer(Preparer):
    """One entry an exam, ``<part>/<exam>/<plane>.npy``.

    The publisher keeps the true test part back, so the 120 published validation exams become ``test`` and a validation
    part is carved from training. The thesis (ch. 4) takes its ensemble weights from the same 120 exams that it reports;
    ``paper_protocol`` keeps them as ``validation`` for comparison, and the datalist says what that means.
    """

    help: ClassVar[str] = "MRNet: train/ and valid/ with a folder of npy stacks a plane, and a csv a label"
    subject_advice: ClassVar[str] = "MRNet does not publish which exams are of one patient."

    paper_protocol: bool = option(
        "keep the published validation part as validation, without a test part (default: it becomes the test part)",
        default=False,
    )

    def read(self, source: Path) -> Draft:
        """See :meth:`Preparer.read`."""
        root = _root(source)
        parts = ["train", *(["valid"] if (root / "valid").is_dir() or _csv(root, "valid", "acl").is_file() else [])]
        if self.paper_protocol and len(parts) < 2:
            raise DataError("the published validation part is not here", where=root, expected="valid/ and valid-*.csv")
        labels: dict[str, dict[str, tuple[int, ...] | None]] = {}
        problems: list[str] = []
        for part in parts:
            labels[part] = _labels(root, part, problems)
        for exam in sorted(set(labels["train"]) & set(labels.get("valid", {}))):
            problems.append(f"exam {exam}: stands in train-*.csv and in valid-*.csv")
        splits: dict[str, Split | None] = {"train": None, "valid": None}
        if len(parts) == 2:
            splits = {"train": "training", "valid": "validation" if self.paper_protocol else "test"}
        entries = [
            Entry(images, vector, exam, splits[part])
            for part in parts
            for exam, vector, images in _exams(root, part, labels[part], problems)
        ]
        raise_problems(problems, root, advice="Unpack the published archive again; exams cannot be guessed.")
        where = "the published validation part is `test`, validation is carved from training"
        if len(parts) < 2:
            where = "the published validation part is missing, training is split"
        notes = [f"paper protocol: {_PAPER}"] if self.paper_protocol else []
        return Draft(
            task="multilabel",
            labels=list(LABELS),
            entries=entries,
            name="mrnet-paper-protocol" if self.paper_protocol else "mrnet",
            modality="MR",
            license=LICENSE,
            description=f"MRNet (Bien et al. 2018, doi:10.1371/journal.pmed.1002699), {AXES}; subjects are exams, for "
            f"it is not published which are of one patient; {notes[0] if notes else where}",
            root=root,
            notes=tuple(notes),
        )


def _csv(root: Path, part: str, label: str) -> Path:
    return root / f"{part}-{label}.csv"


def _root(source: Path) -> Path:
    """SOURCE, or the one folder in it that holds the tables (the archive unpacks into ``MRNet-v1.0``)."""
    if not source.is_dir():
        raise DataError("the folder that the archive was unpacked in is needed, but this is a file", where=source)
    folders = [source, *(path for path in sorted_entries(source) if path.is_dir())]
    found = [path for path in folders if any(_csv(path, "train", label).is_file() for label in LABELS)]
    if len(found) != 1:
        raise DataError(
            f"{len(found) or 'no'} folders with train-abnormal.csv, train-acl.csv, train-meniscus.csv", where=source,
            found=brief(path.name for path in (found or sorted_entries(source))) or "nothing",
            advice="SOURCE is the folder the published archive was unpacked in.",
        )  # fmt: skip
    resolved = found[0].resolve()
    if not resolved.is_relative_to(source):
        raise DataError("is a symbolic link that leads out of the source; it is not followed", where=found[0])
    return resolved


def _labels(root: Path, part: str, problems: list[str]) -> dict[str, tuple[int, ...] | None]:
    """Label vector of each exam, ``None`` where a table lacks it; ids have four digits, also after a spreadsheet."""
    tables: dict[str, dict[str, int]] = {}
    for label in LABELS:
        path, values = _csv(root, part, label), tables.setdefault(label, {})
        try:
            path_inside(root, path.name)
        except ValueError as error:
            raise DataError(str(error), where=path, advice="Each label has a table.") from error
        for row, cells in read_table(path, header=("exam", "label")).rows:
            exam, value = plain(cells["exam"]), plain(cells["label"])
            if not exam.isdecimal() or value not in ("0", "1"):
                problems.append(f"{path.name} row {row}: {exam!r}, {value!r}; expected an exam's number and 0 or 1")
            elif exam.zfill(4) in values:
                problems.append(f"{path.name} row {row}: exam {exam.zfill(4)} has a row already")
            else:
                values[exam.zfill(4)] = int(value)
    held = Counter(exam for values in tables.values() for exam in values)
    for label, values in tables.items():
        problems += [f"exam {exam}: no row in {part}-{label}.csv" for exam in sorted(set(held) - set(values))]
    return {
        exam: tuple(tables[label][exam] for label in LABELS) if held[exam] == len(LABELS) else None
        for exam in sorted(held)
    }


def _exams(
    root: Path, part: str, labels: dict[str, tuple[int, ...] | None], problems: list[str]
) -> list[tuple[str, tuple[int, ...], dict[str, Material]]]:
    """Exams with all their planes; files that no row names are problems, because they would be lost silently."""
    exams = []
    for exam, vector in labels.items():
        images: dict[str, Material] = {}
        for plane in PLANES:
            name = f"{part}/{plane}/{exam}.npy"
            try:
                images[plane] = npy_stack(f"{part}/{exam}/{plane}.npy", path_inside(root, name).resolve())
            except ValueError as error:
                problems.append(f"exam {exam}: {name} {error}")
        if vector is not None and len(images) == len(PLANES):
            exams.append((exam, vector, images))
    for plane in PLANES:
        folder = root / part / plane
        listed = [path for path in sorted_entries(folder) if path.suffix == ".npy"] if folder.is_dir() else []
        problems += [
            f"{part}/{plane}/{path.name}: exam {path.stem} has no row in {part}-*.csv"
            for path in listed
            if path.stem not in labels and not path.name.startswith(".")
        ]
    return exams
