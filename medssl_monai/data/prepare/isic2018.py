"""ISIC 2018 task 3 (lesion diagnosis, Codella et al., arXiv:1902.03368) as the challenge publishes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from medssl_monai.core import DataError
from medssl_monai.data.datalist import Split
from medssl_monai.data.prepare.dermoscopy import LICENSE, ImageIndex
from medssl_monai.data.prepare.layout import PREPARERS, Draft, Entry, Preparer
from medssl_monai.data.prepare.source import Material, brief, raise_problems, walk_files
from medssl_monai.data.prepare.tabular import Table, plain, read_table

CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
_PARTS: dict[str, Split] = {"Training": "training", "Validation": "validation", "Test": "test"}
_GROUPINGS = "ISIC2018_Task3_Training_LesionGroupings.csv"


@PREPARERS.register("isic2018")
@dataclass(frozen=True, kw_only=True)
class Isic2018Preparer(Preparer):
    """Training images and ground truth, lesion groupings, and where they are there the validation and test parts."""

    help: ClassVar[str] = "ISIC 2018 task 3: ISIC2018_Task3_*_Input folders and *_GroundTruth tables below SOURCE"
    subject_advice: ClassVar[str] = f"Put {_GROUPINGS} into SOURCE: it tells which images show one lesion."

    def read(self, source: Path) -> Draft:
        """See :meth:`Preparer.read`."""
        files, linked = walk_files(source)
        lesions = _lesions(source, files)
        entries: list[Entry] = []
        notes: list[str] = []
        parts = [part for part in _PARTS if _part_tables(files, part)]
        if "Training" not in parts:
            raise DataError(
                "no ISIC2018_Task3_Training_GroundTruth.csv here",
                where=source,
                found=brief(path.relative_to(source).as_posix() for path in files) or "no files",
                advice="SOURCE is the folder the published archives were unpacked in.",
            )
        for part in parts:
            images = ImageIndex(source, [path for path in files if f"ISIC2018_Task3_{part}_Input" in path.parts])
            if part != "Training" and not images.by_stem:
                notes.append(f"the {part.lower()} part is left out: ISIC2018_Task3_{part}_Input has no images here")
                continue
            entries += _entries(source, files, part, images, lesions if part == "Training" else {}, linked)
            if images.unused():
                notes.append(f"left alone, without ground truth: {brief(images.unused())}")
        for part in _PARTS:
            if part not in parts and any(f"ISIC2018_Task3_{part}_Input" in path.parts for path in files):
                notes.append(f"the {part.lower()} part is left out: its ground truth is not here")
        if {entry.split for entry in entries} == {"training"}:
            entries = [Entry(e.image, e.label, e.subject, None, e.columns) for e in entries]
        return Draft(
            task="multiclass",
            labels=list(CLASSES),
            entries=entries,
            name="isic2018",
            modality="dermoscopy",
            license=LICENSE,
            description="ISIC 2018 challenge, task 3 (arXiv:1902.03368, doi:10.7910/DVN/DBW86T); subjects are lesions",
            notes=tuple(notes),
        )


def _part_tables(files: list[Path], part: str) -> list[Path]:
    return [path for path in files if path.name == f"ISIC2018_Task3_{part}_GroundTruth.csv"]


def _inside(source: Path, path: Path) -> Path:
    if not path.resolve().is_relative_to(source):
        raise DataError("is a symbolic link that leads out of the source; it is not followed", where=path)
    return path


def _columns(table: Table, needed: tuple[str, ...]) -> None:
    missing = [column for column in needed if column not in table.header]
    if missing:
        raise DataError(
            f"column {brief(missing)} is missing",
            where=table.path,
            found=", ".join(table.header),
            expected=", ".join(needed),
        )


def _lesions(source: Path, files: list[Path]) -> dict[str, tuple[str, str]]:
    """Lesion and confirmation by image id; empty where the groupings were not downloaded."""
    path = next((path for path in files if path.name == _GROUPINGS), None)
    if path is None:
        return {}
    table = read_table(_inside(source, path))
    _columns(table, ("image", "lesion_id"))
    rows = [cells for _, cells in table.rows]
    return {cells["image"]: (cells["lesion_id"], cells.get("diagnosis_confirm_type", "")) for cells in rows}


def _entries(
    source: Path,
    files: list[Path],
    part: str,
    images: ImageIndex,
    lesions: dict[str, tuple[str, str]],
    linked: list[str],
) -> list[Entry]:
    tables = _part_tables(files, part)
    if len(tables) > 1:
        raise DataError(f"{len(tables)} files are called {tables[0].name}", where=source, advice="Keep one of them.")
    table = read_table(_inside(source, tables[0]))
    _columns(table, ("image", *CLASSES))
    entries, problems = [], []
    for row, cells in table.rows:
        try:
            image, label = _labelled(images, cells)
            if lesions and not lesions.get(cells["image"], ("", ""))[0]:
                raise ValueError(f"image {cells['image']!r} has no lesion in {_GROUPINGS}")
        except ValueError as error:
            problems.append(f"row {row}: {error}")
            continue
        lesion, confirmed = lesions.get(cells["image"], (None, ""))
        columns = {"diagnosis_confirm_type": confirmed} if confirmed else {}
        entries.append(Entry(image, label, lesion, _PARTS[part], columns))
    advice = f"Folders that are symbolic links are not entered: {brief(linked)}." if linked else None
    raise_problems(problems, table.path, advice=advice)
    return entries


def _labelled(images: ImageIndex, cells: dict[str, str]) -> tuple[Material, int]:
    values = [plain(cells[name]) for name in CLASSES]
    if sorted(values) != ["0"] * (len(CLASSES) - 1) + ["1"]:
        raise ValueError(f"exactly one class must be 1 and the others 0, found {', '.join(values)}")
    return images.material(cells["image"]), values.index("1")
