"""MHIST (Wei et al. 2021, arXiv:2101.12355): colorectal polyps, hyperplastic or sessile serrated adenoma."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from medssl_monai.core import DataError, did_you_mean
from medssl_monai.data.datalist import Split
from medssl_monai.data.prepare.dermoscopy import ImageIndex
from medssl_monai.data.prepare.layout import PREPARERS, Draft, Entry, Preparer, option
from medssl_monai.data.prepare.source import brief, raise_problems, walk_files
from medssl_monai.data.prepare.tabular import column_values, find_table

CLASSES = ("HP", "SSA")
_IMAGE, _LABEL, _PARTITION = "Image Name", "Majority Vote Label", "Partition"
_PARTS: dict[str, Split] = {"train": "training", "test": "test"}


@PREPARERS.register("mhist")
@dataclass(frozen=True, kw_only=True)
class MhistPreparer(Preparer):
    """The publisher's split; how many of the seven pathologists saw an adenoma stays as the column ``ssa_votes``."""

    help: ClassVar[str] = "MHIST: annotations.csv and the images anywhere below SOURCE"
    subject_advice: ClassVar[str] = "MHIST does not publish which images are of one slide or patient."

    table: str | None = option("path of the table below SOURCE, where several fit", metavar="FILE")

    def read(self, source: Path) -> Draft:
        """See :meth:`Preparer.read`."""
        if not source.is_dir():
            raise DataError("the folder with the table and the images is needed, but this is a file", where=source)
        table = find_table(source, (_IMAGE, _LABEL, _PARTITION), self.table)
        files, linked = walk_files(source)
        images = ImageIndex(source, files)
        counted = next((name for name in table.header if name.startswith("Number of Annotators")), None)
        votes = column_values([cells[counted] if counted else "" for _, cells in table.rows])
        entries, problems = [], []
        for (row, cells), vote in zip(table.rows, votes, strict=True):
            label, part = cells[_LABEL], cells[_PARTITION]
            try:
                if label not in CLASSES:
                    raise ValueError(f"{_LABEL} {label!r} is not a class.{did_you_mean(label, CLASSES)}")
                if part not in _PARTS:
                    raise ValueError(f"{_PARTITION} {part!r} is not known.{did_you_mean(part, _PARTS)}")
                material = images.material(Path(cells[_IMAGE]).stem)
            except ValueError as error:
                problems.append(f"row {row}: {error}")
                continue
            columns = {} if vote is None else {"ssa_votes": vote}
            entries.append(Entry(material, CLASSES.index(label), None, _PARTS[part], columns))
        advice = f"Folders that are symbolic links are not entered: {brief(linked)}." if linked else None
        raise_problems(problems, table.path, advice=advice)
        unused = images.unused()
        return Draft(
            task="binary",
            labels=list(CLASSES),
            entries=entries,
            name="mhist",
            modality="histopathology",
            license="MHIST Dataset Research Use Agreement, which comes with the download (https://bmirds.github.io/MHIST)",
            description="MHIST (Wei et al. 2021, arXiv:2101.12355): majority vote of seven pathologists",
            notes=(f"left alone, named in no row of {table.path.name}: {brief(unused)}",) if unused else (),
        )
