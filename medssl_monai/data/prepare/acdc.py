"""ACDC (Bernard et al. 2018, doi:10.1109/TMI.2018.2837502): cardiac MR at two phases, a diagnosis and masks."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from medssl_monai.core import DataError, did_you_mean
from medssl_monai.data.datalist import Split
from medssl_monai.data.prepare.arrays import Archive
from medssl_monai.data.prepare.layout import PREPARERS, Draft, Entry, Preparer, one_of, option
from medssl_monai.data.prepare.nifti import mask_values
from medssl_monai.data.prepare.source import Material, brief, path_inside, raise_problems, sorted_entries
from medssl_monai.data.prepare.stacks import AXES, check_stack, stack_material
from medssl_monai.data.prepare.tabular import column_values, plain, read_header, read_table

GROUPS = ("NOR", "MINF", "DCM", "HCM", "RV")
STRUCTURES = {0: "background", 1: "right ventricle", 2: "myocardium", 3: "left ventricle"}
_PARTS: dict[str, Split] = {"training": "training", "testing": "test"}
_TABLE = "labels.csv"
Task = Literal["multiclass", "segmentation"]


@dataclass
class _Found:
    """What is gathered while patients are read."""

    entries: list[Entry] = field(default_factory=list)
    organs: dict[str, frozenset[int]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@PREPARERS.register("acdc")
@dataclass(frozen=True, kw_only=True)
class AcdcPreparer(Preparer):
    """One volume a patient. The published files are carried over; npz copies of them become ``.npy``."""

    help: ClassVar[str] = "ACDC: training/ (and testing/) with a folder a patient, or npz volumes with labels.csv"
    subject_advice: ClassVar[str] = "The patient is in the folder's or file's name."

    task: Task = option(  # noqa: RUF009 - a field, as dataclasses.field
        "multiclass (the diagnosis, default) or segmentation (the masks of the ventricles and the myocardium)",
        default="multiclass", parse=one_of("multiclass", "segmentation"), metavar="TASK",
    )  # fmt: skip
    frame: str = option(
        "ED (end of diastole, default) or ES (end of systole)", default="ED", parse=one_of("ED", "ES"), metavar="FRAME"
    )

    def read(self, source: Path) -> Draft:
        """See :meth:`Preparer.read`."""
        if not source.is_dir():
            raise DataError("a folder is needed, but this is a file", where=source)
        is_table = {"file", "patient", "group"} <= set(read_header(source / _TABLE))
        found = self._from_table(source) if is_table else self._from_folders(source)
        raise_problems(found.problems, source, advice="Unpack the published archive again.")
        masks = self.task == "segmentation"
        axes = f", {AXES}" if is_table else ""
        return Draft(
            task=self.task,
            labels=dict(STRUCTURES) if masks else list(GROUPS),
            entries=found.entries,
            name=f"acdc-{self.frame.lower()}" + ("-masks" if masks else ""),
            modality="MR",
            license="CC BY-NC-SA 4.0",
            description=f"ACDC (Bernard et al. 2018, doi:10.1109/TMI.2018.2837502), frame {self.frame}{axes}",
            organs=found.organs if masks else None,
            notes=tuple(found.notes),
        )

    def _from_folders(self, source: Path) -> _Found:
        found = _Found()
        parts = {part: _patients(source / part) for part in _PARTS}
        if not parts["training"]:
            parts = {"training": _patients(source), "testing": []}
        if not parts["training"]:
            raise DataError(
                "no patient folders here", where=source, expected="training/patient001/Info.cfg ..., or labels.csv",
                found=brief(path.name for path in sorted_entries(source)) or "nothing",
            )  # fmt: skip
        known = {part: [(path, _info(source, path, found.problems)) for path in paths] for part, paths in parts.items()}
        ungrouped = [path for path, info in known["testing"] if "Group" not in info]
        if ungrouped and len(ungrouped) == len(known["testing"]) and not found.problems:
            # The first release kept the test patients' diagnoses back
            found.notes.append("the testing part is left out: its Info.cfg files name no group")
            known["testing"] = []
        for part, patients in known.items():
            for folder, info in patients:
                split = _PARTS[part] if known["testing"] else None
                try:
                    self._add_patient(found, source, folder, info, split)
                except ValueError as error:
                    found.problems.append(f"{folder.relative_to(source).as_posix()}: {error}")
        return found

    def _add_patient(
        self, found: _Found, source: Path, folder: Path, info: dict[str, str], split: Split | None
    ) -> None:
        if not info:  # told already
            return
        label: int | Material = _group(info.get("Group", ""))
        number = info.get(self.frame, "")
        if not number.isdecimal():
            raise ValueError(f"Info.cfg names no frame {self.frame}")
        stem = f"{folder.relative_to(source).as_posix()}/{folder.name}_frame{int(number):02d}"
        image = _file(source, f"{stem}.nii.gz")
        columns = {
            name.lower(): value
            for name in ("Height", "Weight")
            if (value := column_values([info.get(name, "")])[0]) is not None
        }
        if self.task == "segmentation":
            columns["group"] = info["Group"]
            label = _file(source, f"{stem}_gt.nii.gz")
            found.organs[label.target] = mask_values(path_inside(source, label.target))
        found.entries.append(Entry(image, label, folder.name, split, columns))

    def _from_table(self, source: Path) -> _Found:
        found = _Found()
        path = source / _TABLE
        if not path.resolve().is_relative_to(source):
            raise DataError("is a symbolic link that leads out of the source; it is not followed", where=path)
        if self.frame != "ED":
            raise DataError("the npz volumes are those of frame ED", where=path, advice="Leave --frame out.")
        seen: set[str] = set()
        for row, cells in read_table(path).rows:
            try:
                if cells["file"] in seen:
                    raise ValueError(f"{cells['file']!r} has a row already")
                seen.add(cells["file"])
                self._add_row(found, source, cells)
            except ValueError as error:
                found.problems.append(f"{_TABLE} row {row}: {error}")
        known = {name.removesuffix(".npz") for name in seen}
        unused = sorted(p.name for p in sorted_entries(source) if p.suffix == ".npz" and p.stem not in known)
        if unused:
            found.notes.append(f"left alone, named in no row of {_TABLE}: {brief(unused)}")
        return found

    def _add_row(self, found: _Found, source: Path, cells: dict[str, str]) -> None:
        label: int | Material = _group(cells["group"])
        if not cells["patient"]:
            raise ValueError("the patient is empty")
        name = cells["file"] if cells["file"].endswith(".npz") else f"{cells['file']}.npz"
        try:
            path = path_inside(source, name).resolve()
        except ValueError as error:
            raise ValueError(f"{name!r} {error}") from error
        stem = name.removesuffix(".npz")
        image = _array(path, "image", f"{stem}.npy")
        columns = {}
        if self.task == "segmentation":
            columns["group"] = cells["group"]
            label = _array(path, "label", f"{stem}_gt.npy")
            found.organs[label.target] = frozenset(int(value) for value in np.unique(Archive(path).read("label")))
        found.entries.append(Entry(image, label, plain(cells["patient"]), None, columns))


def _patients(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in sorted_entries(folder) if path.is_dir() and re.fullmatch(r"patient\d+", path.name)]


def _info(source: Path, folder: Path, problems: list[str]) -> dict[str, str]:
    """Keys and values of a patient's ``Info.cfg``; empty, with a problem, where it cannot be read."""
    name = f"{folder.relative_to(source).as_posix()}/Info.cfg"
    try:
        text = path_inside(source, name).read_text(encoding="utf-8")
    except ValueError as error:
        problems.append(f"{name} {error}")
        return {}
    pairs = (line.partition(":") for line in text.splitlines() if line.strip())
    info = {key.strip(): value.strip() for key, _, value in pairs}
    if not info:
        problems.append(f"{name} is empty")
    return info


def _group(name: str) -> int:
    if name not in GROUPS:
        raise ValueError(f"group {name!r} is not known.{did_you_mean(name, GROUPS)}")
    return GROUPS.index(name)


def _file(source: Path, name: str) -> Material:
    try:
        return Material.of_file(source, path_inside(source, name))
    except ValueError as error:
        raise ValueError(f"{name.rsplit('/', 1)[-1]} {error}") from error


def _array(path: Path, key: str, target: str) -> Material:
    try:
        archive = Archive(path)
        if key not in archive.keys:
            raise ValueError("is missing")
        check_stack(*archive.header(key))
    except DataError as error:
        raise ValueError(f"{path.name!r}: {error.what}") from error
    except ValueError as error:
        raise ValueError(f"{path.name!r}: array {key!r} {error}") from error
    return stack_material(target, lambda: Archive(path).read(key))
