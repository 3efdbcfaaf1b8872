"""DICOM files and folders: which files are slices, which series they belong to, which series is read."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from medssl_monai.core import DataError
from medssl_monai.data.readers.common import ImageHeader, Loaded, column_lengths
from medssl_monai.data.readers.dicom_slice import Slice, read_header, slices_of
from medssl_monai.data.readers.dicom_stack import Stack, build_stack, plane_affine, read_plane, read_stack

_DICOMDIR_CLASS = "1.2.840.10008.1.3.10"
_SHOWN = 5
_SERIES = "SeriesInstanceUID="


@dataclass
class Folder:
    """What lies in a folder and its subfolders.

    Attributes:
        series: slices by SeriesInstanceUID.
        not_dicom: files that are not DICOM.
        without_pixels: DICOM files that hold no image (reports, structure sets) or none that can be read, with why.
    """

    series: dict[str, list[Slice]] = field(default_factory=dict)
    not_dicom: list[Path] = field(default_factory=list)
    without_pixels: dict[Path, str] = field(default_factory=dict)


def visible_files(folder: Path) -> Iterator[Path]:
    """Files below a folder in sorted order; hidden files and folders are left out, links to folders not followed."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(files) if not name.startswith("."))


def series_path(folder: Path, uid: str) -> Path:
    """The address of one series of a folder that holds several: a path below it that names the SeriesInstanceUID."""
    return folder / f"{_SERIES}{uid}"


def names_series(path: Path) -> bool:
    """Whether a path is the address of a series (see :func:`series_path`), not that of a file or folder."""
    return path.name.startswith(_SERIES) and path.parent.is_dir() and not path.exists()


def scan_folder(folder: Path) -> Folder:
    """Read the headers of all files below a folder and sort their slices by series."""
    found = Folder()
    for path in visible_files(folder):
        if path.name.upper() == "DICOMDIR":
            continue
        try:
            header = read_header(path) if path.stat().st_size else None
            if header is None:
                found.not_dicom.append(path)
                continue
            if header.get("SOPClassUID") == _DICOMDIR_CLASS:
                continue
            slices = slices_of(path, header)
        except DataError as error:
            found.without_pixels[path] = error.what
            continue
        except OSError as error:
            found.not_dicom.append(path)
            warnings.warn(f"{path}: cannot be opened ({error.strerror or error}).", UserWarning, stacklevel=2)
            continue
        if not slices:
            found.without_pixels[path] = f"no pixels (modality {header.get('Modality', 'unknown')})"
            continue
        found.series.setdefault(str(header.get("SeriesInstanceUID", "")), []).extend(slices)
    return found


def describe_series(slices: list[Slice]) -> str:
    """A series in words that name no patient: description, number, end of its UID, number of slices."""
    header = slices[0].header
    uid = str(header.get("SeriesInstanceUID", "none"))
    return (
        f"{header.get('SeriesDescription') or 'no description'!s} (series {header.get('SeriesNumber', '?')}, "
        f"UID ...{uid[-8:]}, {len(slices)} {'slice' if len(slices) == 1 else 'slices'})"
    )


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def is_localizer(one: Slice) -> bool:
    """Whether the header calls this slice a localizer."""
    return "LOCALIZER" in [str(word).upper() for word in one.header.get("ImageType") or ()]


def _without_localizers(slices: list[Slice], where: Path) -> list[Slice]:
    kept = [one for one in slices if not is_localizer(one)] or slices
    if len(kept) < len(slices):
        warnings.warn(
            f"{where}: {len(slices) - len(kept)} localizer images within the series are left out.",
            UserWarning,
            stacklevel=2,
        )
    return kept


def choose_series(folder: Path) -> list[Slice]:
    """The slices of the series to read: of several the one with most slices (then the lowest number).

    Args:
        folder: a folder; subfolders are searched too.

    Raises:
        DataError: when no file below the folder is a DICOM image.

    Warns:
        UserWarning: names the series left out, files that are not DICOM, DICOM files without an image, and localizers
            within the series.
    """
    found = scan_folder(folder)
    if not found.series:
        why = f": {next(iter(found.without_pixels.values()))}" if found.without_pixels else ""
        raise DataError(
            "no DICOM image in this folder",
            where=folder,
            found=f"{len(found.not_dicom)} other files, {len(found.without_pixels)} DICOM files that hold none{why}",
            expected="the slices of a DICOM series",
            advice="Name the image file itself if it is not DICOM.",
        )
    if found.not_dicom:
        names = _listed(str(path.relative_to(folder)) for path in found.not_dicom)
        warnings.warn(
            f"{folder}: {len(found.not_dicom)} files are not DICOM and left out: {names}.", UserWarning, stacklevel=2
        )
    if found.without_pixels:
        names = _listed(f"{path.relative_to(folder)}: {why}" for path, why in found.without_pixels.items())
        warnings.warn(
            f"{folder}: {len(found.without_pixels)} DICOM files are left out: {names}.", UserWarning, stacklevel=2
        )
    ranked = sorted(
        found.series.values(),
        key=lambda group: (-len(group), int(group[0].header.get("SeriesNumber") or 0), group[0].path),
    )
    if len(ranked) > 1:
        others = _listed(describe_series(group) for group in ranked[1:])
        warnings.warn(
            f"{folder}: {len(ranked)} DICOM series; the largest is read: {describe_series(ranked[0])}. "
            f"Left out: {others}.",
            UserWarning,
            stacklevel=2,
        )
    return _without_localizers(ranked[0], folder)


def _named_series(path: Path) -> list[Slice]:
    uid = path.name.removeprefix(_SERIES)
    series = scan_folder(path.parent).series
    if uid not in series:
        raise DataError(
            "no such DICOM series in this folder", where=path.parent, found=f"{len(series)} others",
            expected=f"SeriesInstanceUID {uid}", advice="Name the folder or a file in it.",
        )  # fmt: skip
    return _without_localizers(series[uid], path)


def series_stack(path: Path) -> Stack:
    """The stack a series stands for, without its voxels (see :func:`choose_series`, ``build_stack``).

    Args:
        path: a folder, or the address of one of its series (see :func:`series_path`).

    Raises:
        DataError: when there is no such series, or its slices do not form a volume.
    """
    return build_stack(choose_series(path) if path.is_dir() else _named_series(path), path)


def stack_header(stack: Stack) -> ImageHeader:
    """Header of a stack."""
    return ImageHeader(stack.shape, stack.channels, stack.dtype, column_lengths(stack.affine, 3), stack.affine)


def file_slices(path: Path) -> list[Slice]:
    """The slices of one DICOM file: one, or the frames of an enhanced object.

    Raises:
        DataError: when the file is no DICOM image or is of an unsupported multi-frame kind.
    """
    header = read_header(path)
    slices = slices_of(path, header) if header is not None else []
    if not slices:
        raise DataError(
            "holds no DICOM image",
            where=path,
            found="no pixels" if header is not None else "not a DICOM file",
            expected="an image object with Rows, Columns and pixels",
            advice="It may be a report or structure set, or cut short: name the image series instead.",
        )
    return slices


def read_dicom(path: Path) -> Loaded:
    """Read a DICOM file, (W, H[, 3]) or for an enhanced object (X, Y, Z), or a series, always (X, Y, Z)."""
    if path.is_dir() or names_series(path):
        return read_stack(series_stack(path))
    slices = file_slices(path)
    return read_plane(slices[0]) if slices[0].frame is None else read_stack(build_stack(slices, path))


def dicom_header(path: Path) -> ImageHeader:
    """Header of a DICOM file or series; no pixel is read."""
    if path.is_dir() or names_series(path):
        return stack_header(series_stack(path))
    slices = file_slices(path)
    one = slices[0]
    if one.frame is None:
        dtype = one.stored_type if not one.is_rescaled else Stack((one,), plane_affine(one), path).dtype
        spacing = None if one.spacing is None else (float(one.spacing[0]), float(one.spacing[1]))
        return ImageHeader(one.size[:2], one.size[2], dtype, spacing, plane_affine(one))
    return stack_header(build_stack(slices, path))
