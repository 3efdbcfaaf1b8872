"""HAM10000 (Tschandl et al. 2018, doi:10.7910/DVN/DBW86T): a metadata table and images, anywhere below SOURCE."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from medssl_monai.core import DataError, did_you_mean
from medssl_monai.data.prepare.dermoscopy import LICENSE, ImageIndex
from medssl_monai.data.prepare.layout import PREPARERS, Draft, Entry, Preparer, option
from medssl_monai.data.prepare.source import brief, raise_problems, walk_files
from medssl_monai.data.prepare.tabular import column_values, find_table

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
_SUBGROUPS = ("age", "sex", "localization", "dx_type")


@PREPARERS.register("ham10000")
@dataclass(frozen=True, kw_only=True)
class Ham10000Preparer(Preparer):
    """The lesion is the subject: the publisher tells which images show one lesion, not which are of one patient."""

    help: ClassVar[str] = "HAM10000: a table with lesion_id, image_id, dx, and the images anywhere below SOURCE"
    subject_advice: ClassVar[str] = "The column lesion_id tells the lesions."

    table: str | None = option("path of the metadata table below SOURCE, where several fit", metavar="FILE")

    def read(self, source: Path) -> Draft:
        """See :meth:`Preparer.read`."""
        if not source.is_dir():
            raise DataError("the folder with the table and the images is needed, but this is a file", where=source)
        table = find_table(source, ("lesion_id", "image_id", "dx"), self.table)
        files, linked = walk_files(source)
        images = ImageIndex(source, files)
        kept = [column for column in _SUBGROUPS if column in table.header]
        values = {column: column_values([cells[column] for _, cells in table.rows]) for column in kept}
        entries, problems = [], []
        for index, (row, cells) in enumerate(table.rows):
            try:
                if not cells["lesion_id"]:
                    raise ValueError("lesion_id is empty")
                if cells["dx"] not in CLASSES:
                    raise ValueError(f"dx {cells['dx']!r} is not a class.{did_you_mean(cells['dx'], CLASSES)}")
                material = images.material(cells["image_id"])
            except ValueError as error:
                problems.append(f"row {row}: {error}")
                continue
            columns = {column: values[column][index] for column in kept if values[column][index] is not None}
            entries.append(Entry(material, CLASSES.index(cells["dx"]), cells["lesion_id"], columns=columns))
        advice = f"Folders that are symbolic links are not entered: {brief(linked)}." if linked else None
        raise_problems(problems, table.path, advice=advice)
        unused = images.unused()
        return Draft(
            task="multiclass",
            labels=list(CLASSES),
            entries=entries,
            name="ham10000",
            modality="dermoscopy",
            license=LICENSE,
            description="HAM10000 (Tschandl et al., doi:10.7910/DVN/DBW86T); subjects are lesions",
            notes=(f"left alone, named in no row of {table.path.name}: {brief(unused)}",) if unused else (),
        )
