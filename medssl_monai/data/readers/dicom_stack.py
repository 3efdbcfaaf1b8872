"""Slices put in order by position, their affine, and their voxels."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl_monai.core import DataError
from medssl_monai.data.readers.common import Loaded, spatial_metadata
from medssl_monai.data.readers.dicom_slice import Slice, stored_pixels

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SAME_ORIENTATION = 1e-3  # largest difference of a direction cosine
SPACING_TOLERANCE = 0.01  # of the slice distance
_ROUNDING = 0.005  # mm; positions written with two decimals
_TILT = 0.5  # degrees between the stacking direction and the slices' normal before it is told
_MAY_DIFFER = (  # elements that tell slices of one place apart, and what that usually means
    ("EchoTime", "echo times"), ("EchoNumbers", "echoes"), ("DiffusionBValue", "diffusion weightings"),
    ("TemporalPositionIdentifier", "time points"), ("TriggerTime", "cardiac phases"),
    ("AcquisitionNumber", "acquisitions"), ("ImageType", "image types"), ("ContentTime", "content times"),
)  # fmt: skip


@dataclass(frozen=True)
class Stack:
    """Slices of one volume in spatial order, one a position.

    Attributes:
        slices: the slices, ascending along the normal (rows' direction x columns' direction).
        affine: (4, 4) from (column, row, slice) to RAS mm.
        where: the file or folder, for messages.
    """

    slices: tuple[Slice, ...]
    affine: NDArray[np.float64]
    where: Path

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows, slices."""
        return (*self.slices[0].size[:2], len(self.slices))

    @property
    def channels(self) -> int:
        """Channels of the pixels."""
        return self.slices[0].size[2]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the array: as stored, or float32 as soon as one slice is rescaled."""
        return np.dtype(np.float32) if any(s.is_rescaled for s in self.slices) else self.slices[0].stored_type


def plane_affine(one: Slice, step: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Affine of a slice: (column, row, slice) to RAS mm.

    Without position or orientation (radiographs, photographs) it holds the spacing only and turns nothing, so that
    such a file and the PNG made from it go the same way through a pipeline.

    Args:
        one: the (first) slice.
        step: vector to the next slice in LPS mm; without one, along the normal by the depth the header claims.
    """
    spacing = one.spacing if one.spacing is not None else np.ones(2)
    affine = np.eye(4)
    if one.orientation is None or one.position is None:
        affine[:2, :2] = np.diag(spacing)
        affine[2, 2] = one.depth
        return affine
    axes = one.orientation.reshape(2, 3)
    affine[:3, 0], affine[:3, 1] = axes[0] * spacing[0], axes[1] * spacing[1]
    affine[:3, 2] = np.cross(*axes) * one.depth if step is None else step
    affine[:3, 3] = one.position
    return LPS_TO_RAS @ affine


def build_stack(slices: Sequence[Slice], where: Path) -> Stack:
    """Put the slices of one series in order and work out their affine.

    Order and spacing come from ImagePositionPatient along the normal of ImageOrientationPatient, never from file
    names, InstanceNumber or SliceThickness.

    Args:
        slices: slices of one series.
        where: file or folder, for messages.

    Raises:
        DataError: when slices differ in size, spacing or channels, share a position, have no position, or have
            orientations of which none holds the majority.

    Warns:
        UserWarning: when slices are left out, unevenly spaced or stacked askew; with numbers.
    """
    slices = _largest_orientation(_without_copies(slices, where), where)
    _check_equal(slices, where)
    first = slices[0]
    if len(slices) == 1:
        return Stack((first,), plane_affine(first), where)
    normal = np.cross(*np.asarray(first.orientation).reshape(2, 3))
    positions = np.array([s.position for s in slices])
    heights = positions @ normal
    order = np.argsort(heights, kind="stable")
    slices, positions, heights = [slices[i] for i in order], positions[order], heights[order]
    _check_positions(slices, heights, where)
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    _tell_uneven(positions, heights, step, normal, where)
    return Stack(tuple(slices), plane_affine(slices[0], step), where)


def _without_copies(slices: Sequence[Slice], where: Path) -> list[Slice]:
    """Leave out files that are in the folder twice.

    Anonymisers are known to write one SOPInstanceUID into all files of a series, so the rest of the header must agree.
    """
    names = {(one.header.get("SOPInstanceUID") or one.path, one.frame) for one in slices}
    if len(names) == len(slices):
        return list(slices)
    kept: dict[tuple[Any, ...], Slice] = {}
    for one in slices:
        kept.setdefault(one.identity, one)
    copies = len(slices) - len(kept)
    if copies:
        warnings.warn(
            f"{where}: {copies} of {len(slices)} files are copies of others (same SOPInstanceUID, place and header) "
            "and left out.",
            UserWarning,
            stacklevel=2,
        )
    return list(kept.values())


def _largest_orientation(slices: list[Slice], where: Path) -> list[Slice]:
    if len(slices) == 1:
        return slices
    placed = [s for s in slices if s.position is not None and s.orientation is not None]
    if len(placed) < len(slices):
        raise DataError(
            "slices without ImagePositionPatient or ImageOrientationPatient cannot be put in order",
            where=where,
            found=f"{len(slices) - len(placed)} of {len(slices)} slices",
            advice="Name the single files if they are separate images (radiographs, photographs).",
        )
    groups: list[list[Slice]] = []
    for one in placed:
        for group in groups:
            if np.abs(np.asarray(group[0].orientation) - np.asarray(one.orientation)).max() <= SAME_ORIENTATION:
                group.append(one)
                break
        else:
            groups.append([one])
    if len(groups) == 1:
        return groups[0]
    groups.sort(key=len, reverse=True)
    counts = ", ".join(str(len(group)) for group in groups)
    if 2 * len(groups[0]) <= len(slices):
        raise DataError(
            "the slices of this series have several orientations and none holds the majority",
            where=where,
            found=f"{len(groups)} orientations with {counts} slices",
            expected="parallel slices",
            advice="This looks like a localizer or a multi-planar series: keep one orientation in the folder.",
        )
    warnings.warn(
        f"{where}: {len(slices) - len(groups[0])} of {len(slices)} slices have another orientation (localizers?) and "
        f"are left out (slices by orientation: {counts}).",
        UserWarning,
        stacklevel=2,
    )
    return groups[0]


def _check_equal(slices: Sequence[Slice], where: Path) -> None:
    """Size, pixel spacing and type must be those of one volume."""
    for what, values in (
        ("columns x rows x channels", [s.size for s in slices]),
        ("pixel spacing", [None if s.spacing is None else tuple(np.round(s.spacing, 4).tolist()) for s in slices]),
        ("sign of stored values", [s.stored_type.kind for s in slices]),
        ("photometric interpretation", [str(s.header.get("PhotometricInterpretation")) for s in slices]),
    ):
        counts = Counter(values)
        if len(counts) > 1:
            listed = "; ".join(f"{count} slices with {value}" for value, count in counts.most_common())
            raise DataError(
                f"the slices of this series differ in {what}",
                where=where,
                found=listed,
                expected="one volume",
                advice="Separate them into folders, or leave the odd ones out.",
            )


def _check_positions(slices: Sequence[Slice], heights: NDArray[np.float64], where: Path) -> None:
    gaps = np.diff(heights)
    # Half of the usual distance would be a slice between; this is about slices on top of one another
    shared = gaps < max(1e-3, 1e-2 * float(np.median(gaps)))
    if not shared.any():
        return
    places = len(slices) - int(shared.sum())
    reason = next(
        (
            f"{len(values)} {meaning} ({keyword})"
            for keyword, meaning in _MAY_DIFFER
            if len(values := {str(s.element(keyword)) for s in slices}) > 1
        ),
        "no element that tells them apart",
    )
    raise DataError(
        "several slices lie at one position",
        where=where,
        found=f"{len(slices)} slices at {places} positions, {reason}",
        expected="one slice a position",
        advice="Separate them into folders (one volume each), or convert the series with dcm2niix.",
    )


def _tell_uneven(
    positions: NDArray[np.float64],
    heights: NDArray[np.float64],
    step: NDArray[np.float64],
    normal: NDArray[np.float64],
    where: Path,
) -> None:
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    wrong = np.flatnonzero(np.abs(gaps - usual) > max(SPACING_TOLERANCE * usual, 2 * _ROUNDING))
    if len(wrong):
        listed = "; ".join(
            f"{gaps[i]:.3f} mm between slices {i} and {i + 1} (at {heights[i]:.2f} and {heights[i + 1]:.2f} mm"
            + (f", about {missing} missing)" if (missing := round(gaps[i] / usual) - 1) > 0 else ")")
            for i in wrong[:5]
        )
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        warnings.warn(
            f"{where}: uneven slice distance, usually {usual:.3f} mm: {listed}{more}. The volume is placed with the "
            f"mean distance of {float(step @ normal):.3f} mm, so lengths across slices are wrong there.",
            UserWarning,
            stacklevel=3,
        )
    tilt = float(np.degrees(np.arccos(np.clip(step @ normal / np.linalg.norm(step), -1, 1))))
    if tilt > _TILT:
        warnings.warn(
            f"{where}: the slices are stacked {tilt:.1f} degrees off their normal (gantry tilt). The affine is sheared "
            "accordingly; resample before comparing shapes across slices.",
            UserWarning,
            stacklevel=3,
        )
    drift = np.linalg.norm(
        positions - (positions[0] + np.outer((heights - heights[0]) / (step @ normal), step)), axis=1
    )
    if drift.max() > max(SPACING_TOLERANCE * usual, 2 * _ROUNDING):
        worst = int(drift.argmax())
        warnings.warn(
            f"{where}: slice {worst} lies {drift[worst]:.3f} mm beside the line of the others.",
            UserWarning,
            stacklevel=3,
        )


def read_stack(stack: Stack) -> Loaded:
    """Decode the voxels of a stack.

    Returns:
        array (X, Y, Z) or, in colour, (X, Y, Z, 3), and MONAI's metadata; X counts columns, Y rows, Z slices.

    Raises:
        DataError: when a slice cannot be decoded.
    """
    columns, rows, count = stack.shape
    colour = stack.channels > 1
    # Slices are written whole and the axes turned afterwards: no strided writing
    volume = np.empty((count, rows, columns, *([stack.channels] if colour else [])), dtype=stack.dtype)
    decoded: tuple[Path, NDArray[Any]] | None = None
    for place, one in enumerate(stack.slices):
        if decoded is None or decoded[0] != one.path:
            decoded = (one.path, stored_pixels(one.path, one.header))
        frames = decoded[1]
        multiple = frames.ndim == 3 + colour
        volume[place] = one.real_values(_frame(frames, one, volume.shape[1:], multiple))
    array = np.moveaxis(volume, (0, 1, 2), (2, 1, 0))
    return array, spatial_metadata(stack.shape, affine=stack.affine, has_channels=colour)


def read_plane(one: Slice) -> Loaded:
    """Decode a single slice: array (W, H) or (W, H, 3) and MONAI's metadata."""
    columns, rows, channels = one.size
    shape = (rows, columns) if channels == 1 else (rows, columns, channels)
    array = np.swapaxes(one.real_values(_frame(stored_pixels(one.path, one.header), one, shape, False)), 0, 1)
    return array, spatial_metadata((columns, rows), affine=plane_affine(one), has_channels=channels > 1)


def _frame(frames: NDArray[Any], one: Slice, shape: tuple[int, ...], multiple: bool) -> NDArray[Any]:
    image = frames[one.frame or 0] if multiple else frames
    if image.shape != shape:
        raise DataError(
            "the decoded pixels are not of the size the header claims",
            where=one.path,
            found=f"shape {image.shape}",
            expected=f"shape {shape}",
        )
    return image
