"""MURA v1.1 (Rajpurkar et al. 2017, arXiv:1712.06957): radiographs of the arm, normal or abnormal by study."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from medssl_monai.core import DataError
from medssl_monai.data.datalist import Split
from medssl_monai.data.prepare.layout import PREPARERS, Draft, Entry, Preparer
from medssl_monai.data.prepare.source import Material, brief, path_inside, raise_problems, sorted_entries, walk_files
from medssl_monai.data.prepare.tabular import plain, read_table

CLASSES = ("normal", "abnormal")
LICENSE = (
    "Stanford University School of Medicine MURA Dataset Research Use Agreement: personal, non-commercial research "
    "only; no redistribution; no attempt to identify patients. Read and accept it at "
    "https://stanfordmlgroup.github.io/competitions/mura/"
)
_PARTS: dict[str, Split] = {"train": "training", "valid": "test"}
_STUDY = re.compile(r"(?:MURA-v[0-9.]+/)?((?:train|valid)/XR_([A-Z]+)/(patient\d+)/study\d+_(positive|negative))/?")


@PREPARERS.register("mura")
@dataclass(frozen=True, kw_only=True)
class MuraPreparer(Preparer):
    """Every image has its study's label and the patient of its path; the body part is a column.

    The publisher keeps the true test part back: the published validation part becomes ``test``, and validation is
    carved from training, by patient.
    """

    help: ClassVar[str] = "MURA v1.1: *_image_paths.csv and *_labeled_studies.csv beside train/ and valid/"
    subject_advice: ClassVar[str] = "The patient is in the images' paths."

    def read(self, source: Path) -> Draft:
        """See :meth:`Preparer.read`."""
        root = _root(source)
        parts = ["train", *(["valid"] if _table(root, "valid", "image_paths").is_file() else [])]
        entries: list[Entry] = []
        problems: list[str] = []
        named: set[str] = set()
        for part in parts:
            labels = _studies(root, part, problems)
            split = _PARTS[part] if len(parts) == 2 else None
            for material, study in _images(root, part, labels, named, problems):
                body_part, patient = study[1].lower(), study[2]
                entries.append(Entry(material, labels[study[0]], patient, split, {"body_part": body_part}))
        raise_problems(problems, root, advice="Unpack the published archive again.")
        files = (path.relative_to(root).as_posix() for path in walk_files(root)[0] if path.suffix == ".png")
        unused = sorted(set(files) - named)
        notes = [f"left alone, named in no image_paths.csv: {brief(unused)}"] if unused else []
        if len(parts) < 2:
            notes.append("the published validation part, which would be the test part, is not here: training is split")
        return Draft(
            task="binary",
            labels=list(CLASSES),
            entries=entries,
            name="mura",
            modality="X-ray",
            license=LICENSE,
            description="MURA v1.1 (Rajpurkar et al. 2017, arXiv:1712.06957): images with the label of their study"
            + ("; the published validation part is `test`" if len(parts) == 2 else ""),
            root=root,
            notes=tuple(notes),
        )


def _table(root: Path, part: str, what: str) -> Path:
    return root / f"{part}_{what}.csv"


def _root(source: Path) -> Path:
    if not source.is_dir():
        raise DataError("the folder that the archive was unpacked in is needed, but this is a file", where=source)
    folders = [source, *(path for path in sorted_entries(source) if path.is_dir())]
    found = [path.resolve() for path in folders if _table(path, "train", "image_paths").is_file()]
    if len(found) != 1 or not found[0].is_relative_to(source):
        raise DataError(
            f"{len(found) or 'no'} folders with train_image_paths.csv in SOURCE", where=source,
            found=brief(path.name for path in sorted_entries(source)) or "nothing",
            advice="SOURCE is the folder the published archive was unpacked in.",
        )  # fmt: skip
    return found[0]


def _rows(root: Path, path: Path, header: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    try:
        path_inside(root, path.name)
    except ValueError as error:
        raise DataError(str(error), where=path) from error
    return list(read_table(path, header=header).rows)


def _studies(root: Path, part: str, problems: list[str]) -> dict[str, int]:
    """Label of each study, by its path below ``root``."""
    labels: dict[str, int] = {}
    path = _table(root, part, "labeled_studies")
    for row, cells in _rows(root, path, ("study", "label")):
        match, value = _STUDY.fullmatch(cells["study"]), plain(cells["label"])
        if match is None or not match[1].startswith(f"{part}/") or value not in ("0", "1"):
            shown = f"{cells['study']!r}, {value!r}"
            problems.append(f"{path.name} row {row}: {shown}; expected a study's folder in {part}/ and 0 or 1")
        elif match[1] in labels:
            problems.append(f"{path.name} row {row}: study {match[1]} has a row already")
        elif (match[4] == "positive") != (value == "1"):
            problems.append(f"{path.name} row {row}: label {value} of study {match[1]}, whose name says {match[4]}")
        else:
            labels[match[1]] = int(value)
    return labels


def _images(
    root: Path, part: str, labels: dict[str, int], named: set[str], problems: list[str]
) -> list[tuple[Material, tuple[str, str, str]]]:
    """Images with their study's path, body part and patient; studies without an image are problems too."""
    images, shown = [], set()
    path = _table(root, part, "image_paths")
    for row, cells in _rows(root, path, ("image",)):
        folder, _, file = cells["image"].rpartition("/")
        match = _STUDY.fullmatch(folder)
        try:
            if match is None or match[1] not in labels:
                raise ValueError(f"is of no study in {part}_labeled_studies.csv")
            shown.add(match[1])
            name = f"{match[1]}/{file}"
            if name in named:
                raise ValueError("has a row already")
            named.add(name)
            images.append((Material.of_file(root, path_inside(root, name)), (match[1], match[2], match[3])))
        except ValueError as error:
            problems.append(f"{path.name} row {row}: {cells['image']} {error}")
    problems += [f"{path.name}: no image of study {study}" for study in labels if study not in shown]
    return images
