"""KneeMRI (Stajduhar et al. 2017, doi:10.1016/j.cmpb.2016.12.006): sagittal knee volumes and the state of the ACL."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from medssl_monai.core import DataError
from medssl_monai.data.datalist import Split
from medssl_monai.data.prepare.layout import PREPARERS, Draft, Entry, Preparer, one_of, option
from medssl_monai.data.prepare.pickles import load_pickled_array
from medssl_monai.data.prepare.source import Material, brief, raise_problems, walk_files
from medssl_monai.data.prepare.stacks import AXES, check_stack, stack_material
from medssl_monai.data.prepare.tabular import Table, column_values, find_table, plain

GRADES = ("healthy", "partial", "complete")
_NEEDED = ("examId", "aclDiagnosis", "volumeFilename")
_PARTS: dict[Split, tuple[int, ...]] = {"training": (8, 4, 3, 9, 6, 7), "validation": (10, 5), "test": (1, 2)}
Task = Literal["binary", "multiclass"]
_SPLIT_OF = {number: part for part, numbers in _PARTS.items() for number in numbers}


@PREPARERS.register("kneemri")
@dataclass(frozen=True, kw_only=True)
class KneeMriPreparer(Preparer):
    """Pickled volumes, written as ``.npy``; the exam is the subject.

    Where the volumes lie in the folders ``vol01`` to ``vol10`` that they were first published in, the split is that of
    the thesis (table 3.2). The later archive has them in one folder: exams are then drawn.
    """

    help: ClassVar[str] = "KneeMRI (Rijeka): metadata.csv and pickled volumes (.pck) anywhere below SOURCE"
    subject_advice: ClassVar[str] = "The column examId tells the exams."

    task: Task = option(  # noqa: RUF009 - a field, as dataclasses.field
        "binary (complete tear against the rest, as in the thesis; default) or multiclass (healthy, partial, complete)",
        default="binary", parse=one_of("binary", "multiclass"), metavar="TASK",
    )  # fmt: skip
    table: str | None = option("path of the metadata table below SOURCE, where several fit", metavar="FILE")

    def read(self, source: Path) -> Draft:
        """See :meth:`Preparer.read`."""
        if not source.is_dir():
            raise DataError("the folder with the table and the volumes is needed, but this is a file", where=source)
        table = find_table(source, _NEEDED, self.table)
        files, linked = walk_files(source)
        volumes: dict[str, list[Path]] = {}
        for path in files:
            if path.suffix == ".pck":
                volumes.setdefault(path.name, []).append(path)
        entries, folders, problems = self._entries(source, table, volumes)
        placed = [folder is not None for folder in folders]
        if any(placed) and not all(placed):
            loose = [entry.materials[0].target for entry, known in zip(entries, placed) if not known]
            problems.append(f"{len(loose)} volumes lie in no folder vol01 to vol10, the others do: {brief(loose)}")
        advice = f"Folders that are symbolic links are not entered: {brief(linked)}." if linked else None
        raise_problems(problems, table.path, advice=advice)
        used = {plain(cells["volumeFilename"]) for _, cells in table.rows}
        unused = sorted(set(volumes) - used)
        notes = [f"left alone, named in no row of {table.path.name}: {brief(unused)}"] if unused else []
        if not any(placed):
            notes.append("the volumes lie in no folders vol01 to vol10, by which the thesis splits: exams are drawn")
        labels = list(GRADES) if self.task == "multiclass" else ["no complete tear", "complete tear"]
        return Draft(
            task=self.task,
            labels=labels,
            entries=entries,
            name="kneemri" if self.task == "binary" else "kneemri-grades",
            modality="MR",
            license="CC BY-NC-ND 4.0",
            description="KneeMRI (Stajduhar et al. 2017, doi:10.1016/j.cmpb.2016.12.006, doi:10.5281/zenodo.14789903), "
            f"sagittal, proton-density weighted with fat suppression, {AXES}; subjects are exams",
            notes=tuple(notes),
        )

    def _entries(
        self, source: Path, table: Table, volumes: dict[str, list[Path]]
    ) -> tuple[list[Entry], list[int | None], list[str]]:
        """Entries, the number of each one's volume folder, and problems."""
        entries: list[Entry] = []
        folders: list[int | None] = []
        problems: list[str] = []
        sides = column_values([cells.get("kneeLR", "") for _, cells in table.rows])
        seen: Counter[str] = Counter()
        for (row, cells), side in zip(table.rows, sides, strict=True):
            name = plain(cells["volumeFilename"])
            seen[name] += 1
            try:
                if seen[name] > 1:
                    raise ValueError(f"volume {name!r} has a row already")
                grade = plain(cells["aclDiagnosis"])
                if grade not in ("0", "1", "2"):
                    raise ValueError(f"aclDiagnosis {grade!r} is not 0 (healthy), 1 (partial) or 2 (complete)")
                if not cells["examId"]:
                    raise ValueError("examId is empty")
                material, folder = _volume(source, name, volumes.get(name, []))
            except ValueError as error:
                problems.append(f"row {row}: {error}")
                continue
            label = int(grade) if self.task == "multiclass" else int(grade == "2")
            columns = {} if side is None else {"kneeLR": side}
            split = None if folder is None else _SPLIT_OF[folder]
            entries.append(Entry(material, label, plain(cells["examId"]), split, columns))
            folders.append(folder)
        return entries, folders, problems


def _volume(source: Path, name: str, paths: list[Path]) -> tuple[Material, int | None]:
    if not paths:
        raise ValueError(f"no volume {name!r} below SOURCE")
    if len(paths) > 1:
        raise ValueError(
            f"volume {name!r} is there {len(paths)} times: {brief(_shown(source, path) for path in paths)}"
        )
    path = paths[0].resolve()
    if not path.is_relative_to(source):
        raise ValueError(f"volume {name!r} is a symbolic link that leads out of the source; it is not followed")
    try:
        array = load_pickled_array(path)
        check_stack(array.shape, array.dtype)
    except DataError as error:
        raise ValueError(f"volume {_shown(source, paths[0])!r} {error.what}") from error
    except ValueError as error:
        raise ValueError(f"volume {_shown(source, paths[0])!r} {error}") from error
    target = paths[0].relative_to(source).with_suffix(".npy").as_posix()
    return stack_material(target, lambda: load_pickled_array(path)), _folder_number(paths[0].relative_to(source))


def _folder_number(path: Path) -> int | None:
    """Number of the published volume folder: ``vol08`` or a part of it such as ``vol08_02``."""
    for part in path.parts[:-1]:
        match = re.fullmatch(r"vol(\d{2})(_\d+)?", part)
        if match and int(match[1]) in _SPLIT_OF:
            return int(match[1])
    return None


def _shown(source: Path, path: Path) -> str:
    return path.relative_to(source).as_posix()
