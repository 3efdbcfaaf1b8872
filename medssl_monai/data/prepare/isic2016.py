"""ISIC 2016 task 3 (Gutman et al., arXiv:1605.01397): benign and malignant lesions, as the challenge publishes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from medssl_monai.core import DataError
from medssl_monai.data.datalist import Split
from medssl_monai.data.prepare.dermoscopy import ImageIndex
from medssl_monai.data.prepare.layout import PREPARERS, Draft, Entry, Preparer
from medssl_monai.data.prepare.source import brief, raise_problems, walk_files
from medssl_monai.data.prepare.tabular import plain, read_table

CLASSES = ("benign", "malignant")
_PARTS: dict[str, Split] = {"Training": "training", "Test": "test"}
# The training table says it in words, the test table in numbers.
_VALUES = {"benign": 0, "malignant": 1, "0": 0, "1": 1}


@PREPARERS.register("isic2016")
@dataclass(frozen=True, kw_only=True)
class Isic2016Preparer(Preparer):
    """Training and test images with their tables; validation is carved from training."""

    help: ClassVar[str] = "ISIC 2016 task 3: ISBI2016_ISIC_Part3_*_Data folders and *_GroundTruth tables below SOURCE"
    subject_advice: ClassVar[str] = "ISIC 2016 does not publish which images show one lesion or patient."

    def read(self, source: Path) -> Draft:
        """See :meth:`Preparer.read`."""
        files, linked = walk_files(source)
        tables = {part: [path for path in files if path.name == _table_name(part)] for part in _PARTS}
        if not tables["Training"]:
            raise DataError(
                f"no {_table_name('Training')} here", where=source,
                advice="SOURCE is the folder the published files lie in.",
                found=brief(path.relative_to(source).as_posix() for path in files) or "no files",
            )  # fmt: skip
        entries: list[Entry] = []
        notes: list[str] = []
        for part, found in tables.items():
            if not found:
                notes.append(f"the {part.lower()} part is left out: {_table_name(part)} is not here")
                continue
            split = _PARTS[part] if tables["Test"] else None
            images = ImageIndex(source, [path for path in files if f"ISBI2016_ISIC_Part3_{part}_Data" in path.parts])
            entries += _entries(source, found, images, split, linked)
            if images.unused():
                notes.append(f"left alone, without ground truth: {brief(images.unused())}")
        return Draft(
            task="binary",
            labels=list(CLASSES),
            entries=entries,
            name="isic2016",
            modality="dermoscopy",
            license="CC0",
            description="ISIC 2016 challenge, task 3 (arXiv:1605.01397)",
            notes=tuple(notes),
        )


def _table_name(part: str) -> str:
    return f"ISBI2016_ISIC_Part3_{part}_GroundTruth.csv"


def _entries(
    source: Path, tables: list[Path], images: ImageIndex, split: Split | None, linked: list[str]
) -> list[Entry]:
    path = tables[0]
    if len(tables) > 1:
        raise DataError(f"{len(tables)} files are called {path.name}", where=source, advice="Keep one of them.")
    if not path.resolve().is_relative_to(source):
        raise DataError("is a symbolic link that leads out of the source; it is not followed", where=path)
    entries, problems = [], []
    for row, cells in read_table(path, header=("image", "diagnosis")).rows:
        value = plain(cells["diagnosis"])
        try:
            if value not in _VALUES:
                raise ValueError(f"diagnosis {value!r} is not benign (0) or malignant (1)")
            entries.append(Entry(images.material(cells["image"]), _VALUES[value], None, split))
        except ValueError as error:
            problems.append(f"row {row}: {error}")
    advice = f"Folders that are symbolic links are not entered: {brief(linked)}." if linked else None
    raise_problems(problems, path, advice=advice)
    return entries
