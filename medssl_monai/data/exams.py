"""Exams of several images: one of their planes as a dataset of its own, and which plane an image shows."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl_monai.core import ConfigError, DataError, did_you_mean, find_slice_axis, hash_case
from medssl_monai.data.datalist import FILE_NAME, Datalist, Item, Split
from medssl_monai.data.readers import FoundImage, list_series

logger = logging.getLogger(__name__)

PLANES = ("sagittal", "coronal", "axial")
"""The planes of the body, each at the place of the world axis (RAS: right, anterior, superior) it is normal to."""


def select_plane(datalist: Datalist, plane: str | None) -> Datalist:
    """A dataset of one plane of each exam; exams keep their names and subjects, so that planes can be joined again.

    Args:
        datalist: a dataset whose images are mappings of planes to paths, or single images.
        plane: key of the mappings; ``None`` for a dataset of single images, which is returned as it is.

    Returns:
        The same splits; ``Item.image`` is the plane's path, ``Item.name`` still the exam's name.

    Raises:
        ConfigError: when a plane is needed, or named although there are none, or no exam has it.
        DataError: naming the exams that lack the plane.
    """
    exams = [item for _, item in datalist if isinstance(item.image, dict)]
    where = datalist.root / FILE_NAME
    known = Counter(name for item in exams for name in item.image)
    if plane is None:
        if not exams:
            return datalist
        raise ConfigError(
            "the dataset's images are exams of several planes", where="plane", found="none",
            expected=f"one of {', '.join(known)}", advice=f"For example plane={next(iter(known))}.",
        )  # fmt: skip
    if not exams:
        raise ConfigError(
            f"{where}: the dataset's images are no exams of several planes", where="plane", found=repr(plane),
            expected='"image": {"sagittal": ..., "coronal": ..., "axial": ...}',
            advice="Leave `plane` out (plane=null) for single images.",
        )  # fmt: skip
    if plane not in known:
        raise ConfigError(f"no exam has a plane {plane!r}", where="plane", advice=did_you_mean(plane, known))
    lacking: list[str] = []
    splits: dict[Split, list[Item]] = {split: [] for split in datalist.splits}
    for split, item in datalist:
        path = item.image.get(plane) if isinstance(item.image, dict) else None
        if path is None:
            lacking.append(item.name)
        else:
            splits[split].append(replace(item, image=path, exam=item.name))
    if lacking:
        raise DataError(
            f"{len(lacking)} of {len(datalist)} exams have no plane {plane!r}: {_shown(lacking)}", where=where,
            advice="Add the plane's images to these exams, or take the exams out of the datalist.",
        )  # fmt: skip
    return replace(datalist, splits=splits)


def affine_plane(affine: NDArray[np.floating[Any]]) -> str:
    """The plane a volume's slices lie in, by where its slice axis points.

    The slice axis is that of :func:`medssl_monai.core.find_slice_axis`, along which
    :class:`medssl_monai.transforms.SlicesLast` cuts the volume as well.

    Args:
        affine: (4, 4) voxel-to-RAS matrix.

    Returns:
        ``sagittal``, ``coronal`` or ``axial``: the nearest; the order of :data:`PLANES` decides a tie.
    """
    normal = np.asarray(affine, dtype=np.float64)[:3, find_slice_axis(affine)]
    return PLANES[int(np.abs(normal).argmax())]


def plane_images(root: Path, plane: str) -> dict[str, Path]:
    """The images of one plane in a folder of exams, by the exam's name.

    A file that knows its place in the world (DICOM, NIfTI, NRRD, MetaImage) shows the plane its slices lie in; of
    others the path must name the plane, as a folder (``0001/sagittal.npy``, ``sagittal/0001.npy``).

    An exam is the folder an image or its series folder lies in, without the plane's name. Several DICOM series in one
    folder are told apart by their SeriesInstanceUID; that folder, or the one that holds the rest of their study too, is
    the exam. Localizers are left out, and so is the copy of a series in the same exam.

    Args:
        root: folder that exam names are relative to; an image in ``root`` itself makes ``root`` the exam.
        plane: ``sagittal``, ``coronal`` or ``axial``.

    Returns:
        What :func:`~medssl_monai.data.readers.read_image` takes, of exams that have the plane. A warning in the log
        counts the others; there exams go by their hashes.

    Raises:
        ConfigError: for another plane.
        DataError: when no exam has the plane, an exam has two images of it, a series lies in two exams, or a path does
            not tell its plane.
    """
    if plane not in PLANES:
        raise ConfigError(f"unknown plane {plane!r}", where="plane", advice=did_you_mean(plane, PLANES))
    images, scouts = list_series(root)
    names = _exam_names(root, images)
    taken: dict[str, FoundImage] = {}
    planes: dict[str, set[str]] = {name: set() for name in names.values()}
    left_out: Counter[str] = Counter({"single image beside a series": len(scouts)})
    for image in _first_copies(images, names):
        name = names[image.path]
        if image.is_localizer:
            left_out["series of localizers"] += 1
            continue
        shown = _shown_plane(image, image.path.relative_to(root).parts)
        planes[name].add(shown)
        if shown == plane and name in taken:
            raise DataError(
                f"exam {name!r} has two {plane} images", where=image.described,
                found=f"{taken[name].described} as well",
                advice=f"Keep one of them, or list the exams' images in a {FILE_NAME}, one folder a series.",
            )  # fmt: skip
        if shown == plane:
            taken[name] = image
    if left_out.total():
        listed = ", ".join(f"{count} {what}" for what, count in left_out.items() if count)
        logger.warning("not looked at among the exams: %s", listed)
    _tell_lacking(root, plane, planes)
    return {name: image.path for name, image in taken.items()}


def _exam_names(root: Path, images: Sequence[FoundImage]) -> dict[Path, str]:
    """Name of each image's exam."""
    shared: dict[Path, Path] = {}  # folder with several series -> folder of their exam
    for image in images:
        if image.beside:
            inside = {image.series, *image.beside}
            rest = [one for one in images if one.study == image.study != "" and one.series not in inside]
            above = [image.folder, *image.folder.parents]
            shared[image.folder] = next(
                folder for folder in above if all(one.path.is_relative_to(folder) for one in rest)
            )
    names = {}
    for image in images:
        folder = shared.get(image.folder)
        if folder is None and image.folder.parent in shared:  # also a single file beside a folder's series
            folder = shared[image.folder.parent]
        if folder is None and image.slices and image.path.is_dir():
            # beside folders that are whole exams, a folder of one series is an exam too
            beside_exams = any(image.path.parent in exam.parents for exam in shared.values())
            folder = image.path if beside_exams else None
        parts = image.path.relative_to(root).parts
        if folder is not None:
            parts = tuple(part for part in folder.relative_to(root).parts if _stem(part) not in PLANES)
            names[image.path] = "/".join(parts) or root.resolve().name
        else:
            names[image.path] = _exam_of(parts) or root.resolve().name
    return names


def _first_copies(images: Iterable[FoundImage], names: Mapping[Path, str]) -> list[FoundImage]:
    """The images without copies of a series that the exam has already."""
    first: dict[str, FoundImage] = {}
    kept, copied = [], []
    for image in images:
        other = first.setdefault(image.series, image) if image.series else image
        if other is image:
            kept.append(image)
            continue
        name, others = names[image.path], names[other.path]
        if name != others:
            raise DataError(
                f"exams {others!r} and {name!r} hold the same DICOM series", where=image.described,
                found=f"{other.described} as well",
                advice="Take the copy out of the exam that it does not belong to.",
            )  # fmt: skip
        copied.append(hash_case(name))
    if copied:
        logger.warning("%d DICOM series lie twice in their exam and are read once: exams %s", len(copied),
                       _shown(sorted(set(copied))))  # fmt: skip
    return kept


def _tell_lacking(root: Path, plane: str, planes: Mapping[str, set[str]]) -> None:
    """Say which exams do not show a plane; refuse when none does."""
    lacking = [name for name, shown in planes.items() if plane not in shown]
    if lacking and len(lacking) == len(planes):
        found = Counter(shown for name in lacking for shown in planes[name])
        raise DataError(
            f"no image to predict here: no exam of {len(planes)} shows the {plane} plane "
            f"({_shown(lacking)})", where=root,
            found=", ".join(f"{one} of {count}" for one, count in found.items()) or "localizers only",
            advice=f"Name another plane, or add the {plane} images.",
        )  # fmt: skip
    if lacking:
        logger.warning(
            "%d of %d exams have no %s image and get no prediction: exams %s. By name they are those of the folder "
            "that inference.csv lacks.", len(lacking), len(planes), plane, _shown([hash_case(one) for one in lacking]),
        )  # fmt: skip


def _shown(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _shown_plane(image: FoundImage, parts: tuple[str, ...]) -> str:
    header = image.header()
    if header.affine is not None and len(header.shape) == 3:
        return affine_plane(header.affine)
    named = {_stem(part) for part in parts} & set(PLANES)
    if len(named) != 1:
        raise DataError(
            "nothing tells the plane of this image", where=image.path,
            expected=f"a folder or file named {' or '.join(PLANES)}",
            advice=f"Rename it, or list the exams' images in a {FILE_NAME}.",
        )  # fmt: skip
    return named.pop()


def _exam_of(parts: tuple[str, ...]) -> str:
    kept = [part for part in parts if _stem(part) not in PLANES]
    return "/".join(kept if len(kept) < len(parts) else parts[:-1])


def _stem(part: str) -> str:
    return PurePosixPath(part).name.split(".", 1)[0].lower()
