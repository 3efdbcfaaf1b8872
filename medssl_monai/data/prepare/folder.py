"""One folder a class, with or without the publisher's train/val/test folders above them; or images without labels."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from medssl_monai.core import ConfigError, DataError, did_you_mean
from medssl_monai.data.datalist import Split
from medssl_monai.data.prepare.layout import PREPARERS, Draft, Entry, Preparer, names, option
from medssl_monai.data.prepare.loose import loose_images
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
_NO_LABELS = "For images without labels, in whatever folders, give --unlabeled . (with the dot)."


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

    @property
    def left_out(self) -> list[str]:
        """Files that are no images and no voxels of an image's header either."""
        carried = {name for entry in self.entries for material in entry.materials for name in material.files}
        return [name for name in self.not_images if name not in carried]

    def add(self, path: Path, label: int | None, split: Split | None) -> None:
        shown = path.relative_to(self.root).as_posix()
        if not path.is_dir() and not is_image(self.root, path):
            self.not_images.append(shown)
            return
        subject = self.subject(path.name)
        if subject is None and label is None:  # images without labels often lie in a folder a patient
            subject = self.subject(shown)
        if self.reads_subjects and subject is None:
            self.without_subject.append(shown)
        try:
            material = Material.of_file(self.root, path)
        except ValueError as error:
            self.problems.append(f"{shown} {error}")
            return
        self.entries.append(Entry(material, label, subject, split))

    def add_loose(self, folder: Path, used: Collection[Path] = ()) -> None:
        """Take every image below a folder as one without a label; those below ``used`` are taken already."""
        images, others = loose_images(self.root, folder, used)
        for path in images:
            self.add(path, None, "unlabeled")
        self.not_images += [path.relative_to(self.root).as_posix() for path in others]


@PREPARERS.register("folder")
@dataclass(frozen=True, kw_only=True)
class FolderPreparer(Preparer):
    """A folder whose sub-folders are the classes and hold the images; or a folder of images that have no label."""

    help: ClassVar[str] = (
        "one folder a class (SOURCE/<class>/*.png), or SOURCE/train|val|test/<class>/*.png; or images without labels"
    )
    subject_advice: ClassVar[str] = (
        "Give --subject-regex (its first group is the patient) to read the patient from the file names."
    )

    classes: tuple[str, ...] | None = option(
        "class folders in label order (default: all sub-folders, alphabetical)", parse=names, metavar="A,B"
    )
    subject_regex: str | None = option(
        "regular expression searched in each file name, for images without a label then in their path below SOURCE; "
        "its first group is the subject",
        metavar="REGEX",
    )
    unlabeled: str | None = option(
        "folder below SOURCE whose images (files, or folders of a DICOM series each) have no label; '.' for all of "
        "SOURCE but the folders that --classes names",
        metavar="FOLDER",
    )

    def read(self, source: Path) -> Draft:
        """See :meth:`Preparer.read`."""
        if not source.is_dir():
            raise DataError("a folder of class folders is needed, but this is a file", where=source)
        found = _Found(source, subject_reader(self.subject_regex), self.subject_regex is not None)
        unlabeled = self._unlabeled_folder(source)
        if self.classes is None and (unlabeled == source or (unlabeled is None and _holds_images_only(source))):
            return _without_labels(found, source)
        holders = _published(source, self.classes) or {None: source}
        classes = self._class_names(holders, unlabeled)
        for split, holder in holders.items():
            for label, name in enumerate(classes):
                _read_class(found, holder / name, label, split)
        if unlabeled is not None:
            used = [holder / name for holder in holders.values() for name in classes]
            found.add_loose(unlabeled, used)
        raise_problems(found.problems, source)
        check_subjects_read(found.without_subject, source)
        _check_filled(found, source, classes)
        others = _others(source, holders, classes, unlabeled)
        notes = [f"left alone, no class of this dataset: {brief(others, 20)}"] if others else []
        if found.left_out:
            notes.append(f"left out, not images: {brief(found.left_out, 20)}")
        task = "binary" if len(classes) == 2 else "multiclass"
        return Draft(task, list(classes), found.entries, name=source.name, notes=tuple(notes))  # type: ignore[arg-type]

    def _unlabeled_folder(self, source: Path) -> Path | None:
        if self.unlabeled is None:
            return None
        if self.unlabeled.rstrip("/") == ".":
            return source
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
                advice=f"SOURCE must be the folder whose sub-folders are the classes. {_NO_LABELS}",
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


def _holds_images_only(source: Path) -> bool:
    """Whether images lie in SOURCE itself and none in folders below it, so that none can be a class."""
    files, _ = walk_files(source)
    holders = {path.parent for path in files if is_image(source, path)}
    return holders == {source}


def _without_labels(found: _Found, source: Path) -> Draft:
    """The draft of images that have no label: classes are not known yet."""
    found.add_loose(source)
    raise_problems(found.problems, source)
    check_subjects_read(found.without_subject, source)
    notes = [
        "no image has a label: the dataset is for pre-training and embeddings. Patients that are to validate or test "
        "later must not be in it: a network that was pre-trained on their images has seen them"
    ]
    if found.left_out:
        notes.append(f"left out, not images: {brief(found.left_out, 20)}")
    return Draft("multiclass", [], found.entries, name=source.name, notes=tuple(notes))


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
            advice=f"If those are the classes, SOURCE is {folder}; else name the class folders with --classes. "
            f"{_NO_LABELS}",
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
