"""Exams of several images: one of their planes as a dataset of its own, and which plane an image shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl_monai.core import ConfigError, DataError, did_you_mean
from medssl_monai.data.datalist import FILE_NAME, Datalist, Item, Split
from medssl_monai.data.readers import image_header

_THICK = 1.5  # an axis of voxels so many times longer than along the others is that of the slices
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
        shown = ", ".join(lacking[:5]) + (f" and {len(lacking) - 5} more" if len(lacking) > 5 else "")
        raise DataError(
            f"{len(lacking)} of {len(datalist)} exams have no plane {plane!r}: {shown}", where=where,
            advice="Add the plane's images to these exams, or take the exams out of the datalist.",
        )  # fmt: skip
    return replace(datalist, splits=splits)


def affine_plane(affine: NDArray[np.floating[Any]]) -> str:
    """The plane a volume's slices lie in, by where its slice axis points.

    The slice axis is the third, as scanners store it and DICOM series are stacked, unless voxels are half as long
    again along another one: volumes may be stored with their slices along any axis, and slices are thicker than pixels.

    Args:
        affine: (4, 4) voxel-to-RAS matrix.

    Returns:
        ``sagittal``, ``coronal`` or ``axial``: the nearest; the order of :data:`PLANES` decides a tie.
    """
    axes = np.asarray(affine, dtype=np.float64)[:3, :3]
    spacing = np.linalg.norm(axes, axis=0)
    second, largest = np.sort(spacing)[1:]
    axis = int(spacing.argmax()) if largest >= _THICK * second else 2
    return PLANES[int(np.abs(axes[:, axis]).argmax())]


def plane_images(root: Path, paths: Iterable[Path], plane: str) -> dict[str, Path]:
    """The images of one plane among the images of some exams, by the exam's name.

    A file that knows its place in the world (DICOM, NIfTI, NRRD, MetaImage) shows the plane its slices lie in; of
    others the path must name the plane, as a folder (``0001/sagittal.npy``, ``sagittal/0001.npy``). An exam is the
    folder an image or its series folder lies in, without the plane's name.

    Args:
        root: folder that exam names are relative to; an image in ``root`` itself makes ``root`` the exam.
        paths: images below ``root``, as :func:`~medssl_monai.data.readers.find_images` lists them.
        plane: ``sagittal``, ``coronal`` or ``axial``.

    Raises:
        ConfigError: for another plane.
        DataError: when an exam has two images of the plane, or a path does not tell its plane.
    """
    if plane not in PLANES:
        raise ConfigError(f"unknown plane {plane!r}", where="plane", advice=did_you_mean(plane, PLANES))
    found: dict[str, Path] = {}
    for path in paths:
        parts = path.relative_to(root).parts
        if _shown_plane(path, parts) != plane:
            continue
        name = _exam_of(parts) or root.resolve().name
        if name in found:
            raise DataError(
                f"exam {name!r} has two {plane} images", where=path, found=f"{found[name]} as well",
                advice=f"Keep one of them, or list the exams' images in a {FILE_NAME}.",
            )  # fmt: skip
        found[name] = path
    return found


def _shown_plane(path: Path, parts: tuple[str, ...]) -> str:
    header = image_header(path)
    if header.affine is not None and len(header.shape) == 3:
        return affine_plane(header.affine)
    named = {_stem(part) for part in parts} & set(PLANES)
    if len(named) != 1:
        raise DataError(
            "nothing tells the plane of this image", where=path,
            expected=f"a folder or file named {' or '.join(PLANES)}",
            advice=f"Rename it, or list the exams' images in a {FILE_NAME}.",
        )  # fmt: skip
    return named.pop()


def _exam_of(parts: tuple[str, ...]) -> str:
    kept = [part for part in parts if _stem(part) not in PLANES]
    return "/".join(kept if len(kept) < len(parts) else parts[:-1])


def _stem(part: str) -> str:
    return PurePosixPath(part).name.split(".", 1)[0].lower()
