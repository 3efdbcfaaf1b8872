"""What is read from a published dataset's folder, and the guard that nothing outside it is ever read."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from medssl_monai.core import ConfigError, DataError
from medssl_monai.data.readers.common import format_by_content, format_by_suffix
from medssl_monai.data.readers.partners import data_field

Content = Path | Callable[[], bytes]


@dataclass(frozen=True)
class Material:
    """One image or mask as it will stand in the prepared dataset.

    Attributes:
        target: its path relative to the dataset's folder, with ``/``; the name of a folder for a DICOM series.
        files: the files it consists of, by relative path: a file of the source, or a function that makes the bytes.
    """

    target: str
    files: Mapping[str, Content]

    @classmethod
    def of_bytes(cls, target: str, make: Callable[[], bytes]) -> Material:
        """An image that the layout computes; ``make`` must give the same bytes every time."""
        return cls(target, {target: make})

    @classmethod
    def of_file(cls, root: Path, path: Path) -> Material:
        """An image file of the source, or a folder of one DICOM series.

        Args:
            root: the source's folder, resolved.
            path: the image below ``root``; the target is its path relative to ``root``.

        Raises:
            ValueError: with the reason, ready to follow the file's name, when the path leaves ``root`` or cannot be
                carried over.
        """
        target = path.relative_to(root).as_posix()
        if not target.isprintable() or any("\ud800" <= character <= "\udfff" for character in target):
            raise ValueError("has a name that is not printable UTF-8 text; rename it")
        if path.is_dir():
            files: dict[str, Content] = {
                f"{target}/{child.name}": _contained(root, child)
                for child in sorted(path.iterdir())
                if child.is_file() and not child.name.startswith(".")
            }
            if not files:
                raise ValueError("is a folder without files")
            return cls(target, files)
        files = {target: _contained(root, path)}
        raw = _data_file(root, path)
        if raw is not None:
            files[raw.relative_to(root).as_posix()] = _contained(root, raw)
        return cls(target, files)


def is_image(root: Path, path: Path) -> bool:
    """Whether a file is an image by its suffix, or a DICOM file, which often has none, by its first bytes.

    Hidden files (``._x.png``) never are; links that leave ``root`` are not opened.
    """
    if path.name.startswith("."):
        return False
    if format_by_suffix(path) is not None:
        return True
    resolved = path.resolve()
    return resolved.is_file() and resolved.is_relative_to(root) and format_by_content(resolved) == "dicom"


def path_inside(root: Path, cell: str) -> Path:
    r"""The existing path that a cell or option of the dataset's publisher names.

    Args:
        root: the folder it is relative to, resolved.
        cell: relative path, with ``/`` or ``\``.

    Raises:
        ValueError: with the reason, ready to follow the path, when it is absolute, leads out of ``root`` (by ``..``
            or by a symbolic link) or does not exist.
    """
    text = cell.replace("\\", "/")
    pure = PurePosixPath(text)
    if pure.is_absolute() or PureWindowsPath(text).drive:
        raise ValueError("is an absolute path; only paths relative to the image folder are followed")
    if ".." in pure.parts:
        raise ValueError("leads out of the image folder by '..'; it is not followed")
    path = root / pure
    resolved = _contained(root, path)
    if resolved == root:
        raise ValueError("is the image folder itself")
    return path


def walk_files(root: Path) -> tuple[list[Path], list[str]]:
    """All visible files below ``root`` in alphabetical order; folders that are symbolic links are not entered.

    Returns:
        The files, and the relative names of linked folders, for messages.
    """
    files: list[Path] = []
    linked: list[str] = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        linked += [
            Path(folder, name).relative_to(root).as_posix() for name in folders if Path(folder, name).is_symlink()
        ]
        files += [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
    return files, linked


def subject_reader(pattern: str | None) -> Callable[[str], str | None]:
    """A function that reads the subject from a file name: the first group of the first match, ``None`` without match.

    Raises:
        ConfigError: when the pattern is not a regular expression or has no group.
    """
    if pattern is None:
        return lambda name: None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"not a regular expression: {error}", where="--subject-regex", found=repr(pattern)) from error
    if not compiled.groups:
        raise ConfigError(
            "the regular expression has no group",
            where="--subject-regex",
            found=repr(pattern),
            advice="Put the part of the file name that is the patient in parentheses, e.g. '^(P[0-9]+)_'.",
        )

    def read(name: str) -> str | None:
        match = compiled.search(name)
        return (match.group(1) or None) if match else None

    return read


def check_subjects_read(missed: Sequence[str], where: Path) -> None:
    """Refuse file names that ``--subject-regex`` read no subject from.

    Raises:
        DataError: naming up to five of them.
    """
    if missed:
        raise DataError(
            f"--subject-regex reads no subject from {len(missed)} file name{'s'[: len(missed) > 1]}: {brief(missed)}",
            where=where,
            advice="Widen the expression, or leave those files out of the folder.",
        )


def brief(names: Iterable[object], limit: int = 5) -> str:
    """Names joined by commas, cut after ``limit``: ``a, b, c, d, e and 12 more``."""
    listed = [str(name) for name in names]
    rest = len(listed) - limit
    return ", ".join(listed[:limit]) + (f" and {rest} more" if rest > 0 else "")


def raise_problems(problems: Sequence[str], where: Path, advice: str | None = None, limit: int = 100) -> None:
    """Raise one :class:`DataError` that lists all problems (the first ``limit``); nothing happens without any."""
    if problems:
        shown = [*problems[:limit], *([f"and {len(problems) - limit} more"] if len(problems) > limit else [])]
        listed = "\n  ".join(shown)
        raise DataError(
            f"{len(problems)} problem{'s'[: len(problems) > 1]}:\n  {listed}\nNothing was written",
            where=where,
            advice=advice,
        )


def sorted_entries(folder: Path) -> Iterator[Path]:
    """Entries of a folder in alphabetical order.

    Raises:
        DataError: when the folder cannot be read.
    """
    try:
        yield from sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"the folder cannot be read ({error.strerror})", where=folder) from error


def _contained(root: Path, path: Path) -> Path:
    resolved = path.resolve()
    if not resolved.is_relative_to(root):
        raise ValueError("is a symbolic link that leads out of the source; it is not followed")
    if not resolved.exists():
        raise ValueError("does not exist")
    return resolved


def _data_file(root: Path, header: Path) -> Path | None:
    """The file with the voxels of a detached header, which must lie beside it."""
    _contained(root, header)
    name = data_field(header)
    if name is None:
        return None
    if not name or name != PurePosixPath(name).name or not (header.parent / name).is_file():
        shown = repr(name or "nothing")
        raise ValueError(f"is a header that names {shown} as its data file; one file beside it is needed")
    return header.parent / name
