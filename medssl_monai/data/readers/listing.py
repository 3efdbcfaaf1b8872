"""Every image below a folder by itself: of DICOM files each series, also where several share a folder."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from medssl_monai.data.readers.common import ImageHeader
from medssl_monai.data.readers.dicom import describe_series, is_localizer, scan_folder, series_path, stack_header
from medssl_monai.data.readers.dicom_slice import Slice
from medssl_monai.data.readers.dicom_stack import build_stack
from medssl_monai.data.readers.reader import common_folder, image_header, is_image_path, no_image


@dataclass(frozen=True)
class FoundImage:
    """One image below a folder.

    Attributes:
        path: what :func:`~medssl_monai.data.readers.read_image` takes: a file, the folder of a series, or a series of a
            folder that others share (see :func:`~medssl_monai.data.readers.dicom.series_path`).
        folder: the file, or the folder that holds the slices.
        slices: of a DICOM image.
        beside: UIDs of other volumes' series with files in ``folder`` or below it; empty for files.
    """

    path: Path
    folder: Path
    slices: tuple[Slice, ...] = ()
    beside: frozenset[str] = frozenset()

    @property
    def series(self) -> str:
        """SeriesInstanceUID; empty where there is none."""
        return str(self.slices[0].header.get("SeriesInstanceUID", "")) if self.slices else ""

    @property
    def study(self) -> str:
        """StudyInstanceUID; empty where there is none."""
        return str(self.slices[0].header.get("StudyInstanceUID", "")) if self.slices else ""

    @property
    def is_localizer(self) -> bool:
        """Whether it is a DICOM series of nothing but localizers."""
        return bool(self.slices) and all(map(is_localizer, self.slices))

    @property
    def described(self) -> str:
        """The place, and of a series that shares it which one; no patient's name from the header."""
        return str(self.folder) + (f", {describe_series(list(self.slices))}" if self.path != self.folder else "")

    def header(self) -> ImageHeader:
        """Header of the image, as :func:`~medssl_monai.data.readers.image_header` gives it.

        Raises:
            DataError: when the image cannot be read as one volume.
        """
        if self.folder == self.path and not self.path.is_dir():
            return image_header(self.path)
        kept = [one for one in self.slices if not is_localizer(one)] or list(self.slices)
        return stack_header(build_stack(kept, self.path))


def list_series(root: Path) -> tuple[list[FoundImage], list[Path]]:
    """All images below a folder, sorted by path; every DICOM series is one, whatever lies beside it.

    A series whose files lie in several folders is one image, in the folder all of them share; but where one of these
    folders has all its slices and the others have copies of them, each folder is listed. Its ``series`` tells that
    they are the same.

    Args:
        root: the folder.

    Returns:
        The images; and DICOM files of a single slice in a folder with a larger series (scouts), which are none.

    Raises:
        DataError: when there is no image.

    Warns:
        UserWarning: when a folder with some slices of a series that another folder has whole is left out.
    """
    found = scan_folder(root)
    images = [FoundImage(path, path) for path in found.not_dicom if is_image_path(path)]
    singles: list[tuple[Path, tuple[Slice, ...]]] = []
    stacks: list[tuple[str, Path, tuple[Slice, ...]]] = []
    for uid, slices in found.series.items():
        for group in _places(slices):
            files = {one.path for one in group}
            if len(files) == 1:
                singles.append((files.pop(), group))
            else:
                stacks.append((uid, common_folder(files), group))
    claimed = {folder for _, folder, _ in stacks}
    scouts = [path for path, group in singles if path.parent in claimed and group[0].frame is None]
    volumes = {uid: slices for uid, slices in found.series.items() if not all(map(is_localizer, slices))}
    for path, group in singles:
        if path not in scouts:
            images.append(FoundImage(path, path, group))
    flat = set(scouts)
    for uid, folder, group in stacks:
        below = {
            other
            for other, slices in found.series.items()
            if other != uid and any(one.path.is_relative_to(folder) for one in slices)
        }
        beside = frozenset(other for other in below & set(volumes) if not {one.path for one in volumes[other]} <= flat)
        images.append(FoundImage(series_path(folder, uid) if below else folder, folder, group, beside))
    if not images:
        raise no_image(root)
    return sorted(images, key=lambda image: image.path), scouts


def _places(slices: list[Slice]) -> list[tuple[Slice, ...]]:
    """The slices of a series by folder where folders hold copies of one another, else all together."""
    folders: dict[Path, list[Slice]] = {}
    for one in slices:
        folders.setdefault(one.path.parent, []).append(one)
    names = [{(one.header.get("SOPInstanceUID"), one.frame) for one in group} for group in folders.values()]
    fullest = max(names, key=len)
    copies = len(names) > 1 and (None, None) not in fullest and all(other <= fullest for other in names)
    # an anonymiser may have written one SOPInstanceUID into all files
    if not copies or any(len(one) < len(group) for one, group in zip(names, folders.values(), strict=True)):
        return [tuple(slices)]
    whole = [folder for folder, one in zip(folders, names, strict=True) if one == fullest]
    if len(whole) < len(folders):
        parts = ", ".join(str(folder) for folder in folders if folder not in whole)
        warnings.warn(f"{parts}: copies of some slices in {whole[0]}, left out.", UserWarning, stacklevel=2)
    return [tuple(folders[folder]) for folder in whole]
