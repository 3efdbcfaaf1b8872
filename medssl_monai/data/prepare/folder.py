"""One folder a class, with or without the publisher's train/val/test folders above them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from medssl_monai.core import ConfigError, DataError, did_you_mean
from medssl_monai.data.datalist import Split
from medssl_monai.data.prepare.layout import PREPARERS, Draft, Entry, Preparer, names, option
from medssl_monai.data.prepare.source import (
    Material,
    brief,
    check_subjects_read,
    is_image,
    path_inside,
    raise_problems,
    sorted_entries,
    subject_reader,
    walk_files,
)

SPLIT_NAMES: dict[str, Split] = {
    "train": "training", "training": "training",
    "val": "validation", "valid": "validation", "validation": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


@dataclass
class _Found:
    """What is gathered while folders are read."""

    root: Path
    subject: Callable[[str], str | None]
    reads_subjects: bool
    entries: list[Entry] = field(default_factory=list)
    not_images: list[str] = field(default_factory=list)
    without_subject: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, path: Path, label: int | None, split: Split | None) -> None:
        shown = path.relative_to(self.root).as_posix()
        if not is_image(self.root, path):
            self.not_images.append(shown)
            return
        subject = self.subject(path.name)
        if self.reads_subjects and subject is None:
            self.without_subject.append(shown)
        try:
            material = Material.of_file(self.root, path)
        except ValueError as error:
            self.problems.append(f"{shown} {error}")
            return
        self.entries.append(Entry(material, label, subject, split))


@PREPARERS.register("folder")
@dataclass(frozen=True, kw_only=True)
class FolderPreparer(Preparer):
    """A folder whose sub-folders are the classes and hold the images."""

    help: ClassVar[str] = "one folder a class (SOURCE/<class>/*.png), or SOURCE/train|val|test/<class>/*.png"
    subject_advice: ClassVar[str] = (
        "Give --subject-regex (its first group is the patient) to read the patient from the file names."
    )

    classes: tuple[str, ...] | None = option(
        "class folders in label order (default: all sub-folders, alphabetical)", parse=names, metavar="A,B"
    )
    subject_regex: str | None = option(
        "regular expression searched in each file name; its first group is the subject", metavar="REGEX"
    )
    unlabeled: str | None = option("folder below SOURCE whose images have no label", metavar="FOLDER")

    def read(self, source: Path) -> Draft:
        """See :meth:`Preparer.read`."""
        if not source.is_dir():
            raise DataError("a folder of class folders is needed, but this is a file", where=source)
        found = _Found(source, subject_reader(self.subject_regex), self.subject_regex is not None)
        unlabeled = self._unlabeled_folder(source)
        holders = _published(source, self.classes) or {None: source}
        classes = self._class_names(holders, unlabeled)
        for split, holder in holders.items():
            for label, name in enumerate(classes):
                _read_class(found, holder / name, label, split)
        if unlabeled is not None:
            for path in walk_files(unlabeled)[0]:
                found.add(path, None, "unlabeled")
        raise_problems(found.problems, source)
        check_subjects_read(found.without_subject, source)
        _check_filled(found, source, classes)
        others = _others(source, holders, classes, unlabeled)
        notes = [f"left alone, no class of this dataset: {brief(others, 20)}"] if others else []
        if found.not_images:
            notes.append(f"left out, not images: {brief(found.not_images, 20)}")
        task = "binary" if len(classes) == 2 else "multiclass"
        return Draft(task, list(classes), found.entries, name=source.name, notes=tuple(notes))  # type: ignore[arg-type]

    def _unlabeled_folder(self, source: Path) -> Path | None:
        if self.unlabeled is None:
            return None
        try:
            folder = path_inside(source, self.unlabeled)
        except ValueError as error:
            raise ConfigError(f"{self.unlabeled!r} {error}", where="--unlabeled") from error
        if not folder.is_dir():
            raise ConfigError(f"{self.unlabeled!r} is not a folder", where="--unlabeled")
        return folder

    def _class_names(self, holders: dict[Split | None, Path], unlabeled: Path | None) -> tuple[str, ...]:
        first = holders.get("training", next(iter(holders.values())))
        present = [path.name for path in _folders(first) if not _holds(path, unlabeled)]
        if self.classes is not None:
            for name in self.classes:
                if name not in present:
                    raise ConfigError(
                        f"there is no class folder {name!r} in {first}",
                        where="--classes",
                        advice=did_you_mean(name, present),
                    )
        classes = self.classes or tuple(present)
        if len(classes) < 2:
            deeper = first / classes[0] if classes else first
            inside = [path.name for path in _folders(deeper)] if classes else []
            if len(inside) > 1:
                raise DataError(
                    f"one folder, {classes[0]!r}, which holds folders itself",
                    where=first,
                    found=brief(inside),
                    advice=f"If those are the classes, give {deeper} as SOURCE.",
                )
            raise DataError(
                f"at least 2 class folders are needed, found {len(classes)}",
                where=first,
                found=brief(classes) or "no folder",
                advice="SOURCE must be the folder whose sub-folders are the classes.",
            )
        for split, holder in holders.items():
            extra = [path.name for path in _folders(holder) if path.name not in present]
            if extra and split is not None and self.classes is None:
                raise DataError(
                    f"class {brief(extra)} of the {split} part has no folder in the training part",
                    where=holder,
                    advice="Name the classes to use with --classes.",
                )
        return classes


def _holds(folder: Path, unlabeled: Path | None) -> bool:
    return unlabeled is not None and unlabeled.is_relative_to(folder)


def _folders(folder: Path) -> list[Path]:
    return [path for path in sorted_entries(folder) if path.is_dir() and not path.name.startswith(".")]


def _published(source: Path, classes: tuple[str, ...] | None) -> dict[Split | None, Path] | None:
    """The publisher's split folders, ``None`` where SOURCE holds the class folders themselves."""
    if classes is not None and all((source / name).is_dir() for name in classes):
        return None
    parts: dict[Split | None, Path] = {}
    for path in _folders(source):
        split = SPLIT_NAMES.get(path.name.lower())
        if split is None or not _folders(path):
            continue
        if split in parts:
            raise DataError(
                f"{parts[split].name} and {path.name} both look like the {split} part",
                where=source,
                advice="Rename or move one of them.",
            )
        parts[split] = path
    return parts if "training" in parts and len(parts) > 1 else None


def _read_class(found: _Found, folder: Path, label: int, split: Split | None) -> None:
    if not folder.is_dir():
        return
    if not folder.resolve().is_relative_to(found.root):
        found.problems.append(f"{folder.name} is a symbolic link that leads out of the source; it is not followed")
        return
    nested = _folders(folder)
    if nested:
        raise DataError(
            f"class folder {folder.name!r} itself holds folders ({brief(path.name for path in nested)})",
            where=folder.parent,
            advice=f"If those are the classes, SOURCE is {folder}; else name the class folders with --classes.",
        )
    for path in sorted_entries(folder):
        found.add(path, label, split)


def _check_filled(found: _Found, source: Path, classes: tuple[str, ...]) -> None:
    filled = {entry.label for entry in found.entries}
    for label, name in enumerate(classes):
        if label not in filled:
            raise DataError(
                f"class folder {name!r} holds no images",
                where=source,
                found=brief(found.not_images) or "no files",
                advice="Fill it, or name the classes to use with --classes.",
            )


def _others(
    source: Path, holders: dict[Split | None, Path], classes: tuple[str, ...], unlabeled: Path | None
) -> list[str]:
    used = {holder / name for holder in holders.values() for name in classes} | set(holders.values())
    entries = [path for folder in {source, *holders.values()} for path in sorted_entries(folder)]
    left = [path for path in entries if path not in used and not _holds(path, unlabeled)]
    return sorted(path.relative_to(source).as_posix() + ("/" if path.is_dir() else "") for path in left)
