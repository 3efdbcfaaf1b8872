"""Images in whatever folders: files, and the slices of a DICOM series as one image."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from medssl_monai.core import DataError
from medssl_monai.data.prepare.source import is_image, walk_files
from medssl_monai.data.readers import find_images
from medssl_monai.data.readers.common import format_by_content, format_by_suffix


def loose_images(root: Path, folder: Path, used: Collection[Path] = ()) -> tuple[list[Path], list[Path]]:
    """The images below a folder, sorted: files, and folders that hold the slices of a DICOM series each.

    Folders that are symbolic links are not entered, and links that lead out of ``root`` are not opened.

    Args:
        root: the source's folder, resolved.
        folder: where to look.
        used: folders that are left out with all that is in them.

    Returns:
        The images, and the files that are none (DICOM files without pixels among them).

    Raises:
        DataError: when a series lies in ``root`` itself, so that it has no folder to be named by, or a file beside
            slices is a link that leads out of ``root``.
    """
    files = [path for path in walk_files(folder)[0] if not any(path.is_relative_to(taken) for taken in used)]
    images = [path for path in files if is_image(root, path)]
    slices = {path for path in images if _is_dicom(root, path)}
    if slices:
        found = _with_series(root, files, slices)
        images = sorted({*found, *(path for path in images if path not in slices)})
    taken, covered = set(images), {path for path in images if path.is_dir()}
    return images, [path for path in files if path not in taken and covered.isdisjoint(path.parents)]


def _with_series(root: Path, files: list[Path], slices: set[Path]) -> set[Path]:
    """The folders of series, and the DICOM files that are an image each."""
    tops = _tops(slices)
    for path in files:
        if not path.resolve().is_relative_to(root) and not tops.isdisjoint(path.parents):
            raise DataError("is a symbolic link that leads out of the source; it is not followed", where=path)
    found: set[Path] = set()
    for top in sorted(tops):
        try:
            found.update(find_images(top))
        except DataError:  # no pixels in it, which the caller tells of every such file
            continue
    if root in found:
        raise DataError(
            "the slices of a DICOM series lie in SOURCE itself", where=root, expected="a folder for each series",
            advice="Move the slices of each series into a folder of its own below SOURCE.",
        )  # fmt: skip
    return {path for path in found if path in slices or path.is_dir()}


def _tops(slices: Collection[Path]) -> set[Path]:
    """The folders of the slices, without those that lie below another of them."""
    parents = {path.parent for path in slices}
    return {parent for parent in parents if parents.isdisjoint(parent.parents)}


def _is_dicom(root: Path, path: Path) -> bool:
    kind = format_by_suffix(path)
    if kind is None and path.resolve().is_relative_to(root):
        kind = format_by_content(path)
    return kind == "dicom"
