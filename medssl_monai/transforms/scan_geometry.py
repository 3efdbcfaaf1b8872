"""Scans of any orientation, spacing and size brought to what the one-shot segmentation nets take, and back."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import (
    MapTransform,
    Orientationd,
    ResizeWithPadOrCropd,
    ScaleIntensityRanged,
    ScaleIntensityRangePercentilesd,
    Spacingd,
    Transform,
)

from medssl_monai.transforms._image import BACKEND, check_pair, is_number, named, unwrap

Modality = Literal["mr", "ct"]
_ROUNDING = 1e-4  # of a direction: what the digits of DICOM and the float32 of NIfTI lose is far less
_FAR = 0.1  # of a voxel's shortest edge: as far as a mask's grid may lie from its image's


def scan_transforms(
    image_key: str = "image",
    label_key: str | None = None,
    modality: Modality = "mr",
    image_size: int = 256,
    field_of_view: float = 320.0,
    slice_spacing: float | None = 7.7,
    clip_percentile: float = 99.5,
    window: Sequence[float] = (-125.0, 275.0),
    allow_missing_keys: bool = False,
) -> list[Transform]:
    """Transforms from a scan as it was read, channel first, to the net's volume (1, H, W, S), in [0, 1].

    The intensities first, of the scan as it was acquired: MR from its minimum to its ``clip_percentile``, CT from one
    end of ``window`` to the other, clipped. Then the grid: axes turned to RAS, so that the last one counts axial slices
    from the feet upwards whichever way the scan was stored; resampled, the image linearly and the mask to the nearest
    voxel, to pixels of ``field_of_view / image_size`` and slices ``slice_spacing`` apart; cut or padded with zeros to
    ``image_size`` pixels about the middle. The defaults are those of Ouyang et al. (2020) for CHAOS and Synapse, whom
    the thesis follows (7.4.1.1, 7.5.1): 1.25 x 1.25 x 7.7 mm, 256 x 256. Every step on the grid is recorded in the
    ``MetaTensor``, so that MONAI's ``Invertd`` takes a result back to the scan's own grid.

    Args:
        image_key: scan (1, X, Y, Z), of any orientation; one without an affine is taken as RAS with pixels of 1 mm.
        label_key: mask (1, X, Y, Z) on the scan's grid, where there is one.
        modality: ``mr`` or ``ct``.
        image_size: pixels of a slice, both sides.
        field_of_view: mm that these span.
        slice_spacing: mm between slices; ``None`` keeps the scan's own.
        clip_percentile: of an MR scan's intensities: what lies above becomes 1.
        window: lowest and highest CT intensity (HU): they become 0 and 1.
        allow_missing_keys: whether a key may be missing, such as the mask of some scans.

    Returns:
        The transforms, to be put in a ``Compose``; the first, :class:`CheckScand`, refuses what is no scan.

    Raises:
        ValueError: for an unknown modality, or a number outside its range.
    """
    _check(modality, image_size, field_of_view, slice_spacing, clip_percentile)
    low, high = check_pair(window, "scan_transforms", "window", "two intensities (lowest, highest) that differ")
    if low == high:
        raise ValueError(f"scan_transforms: window must be two intensities (lowest, highest) that differ; got {window}")
    missing: dict[str, Any] = {"allow_missing_keys": allow_missing_keys}
    unit: dict[str, Any] = {"b_min": 0.0, "b_max": 1.0, "clip": True, **missing}
    if modality == "mr":
        intensity: list[Transform] = [
            ScaleIntensityRangePercentilesd(image_key, lower=0.0, upper=clip_percentile, **unit),
            ScaleIntensityRanged(image_key, a_min=0.0, a_max=1.0, **unit),  # MONAI clips nothing where both are equal
        ]
    else:
        intensity = [ScaleIntensityRanged(image_key, a_min=low, a_max=high, **unit)]
    keys = [image_key] if label_key is None else [image_key, label_key]
    pixel = field_of_view / image_size
    return [
        CheckScand(image_key, label_key, **missing),
        *intensity,
        Orientationd(keys, axcodes="RAS", labels=None, **missing),
        ScanSpacingd(
            keys,
            pixdim=(pixel, pixel, -1.0 if slice_spacing is None else slice_spacing),  # MONAI keeps what is not positive
            mode=("bilinear", "nearest")[: len(keys)],
            **missing,
        ),
        ResizeWithPadOrCropd(keys, spatial_size=(image_size, image_size, -1), **missing),
    ]


def _check(
    modality: str, image_size: int, field_of_view: float, slice_spacing: float | None, clip_percentile: float
) -> None:
    who = "scan_transforms"
    if modality not in get_args(Modality):
        raise ValueError(f"{who}: modality must be one of {', '.join(get_args(Modality))}; got {modality!r}")
    if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1:
        raise ValueError(f"{who}: image_size must be a positive integer, got {image_size!r}")
    if not is_number(field_of_view) or not 0 < field_of_view < math.inf:
        raise ValueError(f"{who}: field_of_view must be a positive number of mm, got {field_of_view!r}")
    if slice_spacing is not None and (not is_number(slice_spacing) or not 0 < slice_spacing < math.inf):
        raise ValueError(f"{who}: slice_spacing must be a positive number of mm or None, got {slice_spacing!r}")
    if not is_number(clip_percentile) or not 0 < clip_percentile <= 100:
        raise ValueError(f"{who}: clip_percentile must lie above 0 and at most at 100, got {clip_percentile!r}")


class CheckScand(MapTransform):
    """Refuse what is no scan, or a mask that does not lie on its scan's voxels, before anything is computed of it.

    Args:
        image_key: the scan, channel first.
        label_key: its mask, where there is one.

    Raises:
        ValueError: when called with a scan that is not (1, X, Y, Z) or holds values that are not finite, or a mask of
            another shape, with values that are no whole numbers of 0 or more, or whose affine puts a corner further
            from the scan's than a tenth of the shortest edge of a voxel.
    """

    backend = BACKEND

    def __init__(self, image_key: str, label_key: str | None = None, allow_missing_keys: bool = False) -> None:
        super().__init__([image_key] if label_key is None else [image_key, label_key], allow_missing_keys)
        self.image_key, self.label_key = image_key, label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data``, nothing changed."""
        result = dict(data)
        volumes = {key: self._volume(result[key]) for key in self.key_iterator(result)}
        if self.image_key in volumes:
            bad = int((~torch.isfinite(volumes[self.image_key])).sum())
            if bad:
                raise ValueError(
                    f"{bad} voxels are not finite (NaN or infinite){named(result[self.image_key])}; mend the scan, or "
                    "set them to the value of air"
                )
        if self.label_key in volumes:
            values = volumes[self.label_key]
            if not bool(((values >= 0) & (values == values.round())).all()):
                raise ValueError(
                    f"the mask holds values that are no whole numbers of 0 or more{named(result[self.label_key])}; "
                    "save it again as integers, without interpolation"
                )
            if self.image_key in volumes:
                self._check_grids(result[self.image_key], result[self.label_key])
        return result

    def _volume(self, value: Any) -> torch.Tensor:
        volume, _ = unwrap(value, "A scan", dims=None, floating=False)
        if volume.ndim == 4 and volume.shape[0] == 1:
            return volume
        if volume.ndim == 4:
            what, advice = f"{volume.shape[0]} channels or points in time", "save the one that is meant as its own file"
        else:
            what, advice = f"{volume.ndim - 1} spatial axes", "scans are volumes of slices, not single pictures"
        raise ValueError(
            f"a scan must be one volume (1, X, Y, Z), got {what}, shape {tuple(volume.shape)}{named(value)}; {advice}"
        )

    def _check_grids(self, image: Any, label: Any) -> None:
        if image.shape != label.shape:
            raise ValueError(
                f"the mask has another grid than its scan{named(label)}: shape {tuple(label.shape[1:])}, expected "
                f"{tuple(image.shape[1:])}; resample the mask to the scan"
            )
        if not isinstance(image, MetaTensor) or not isinstance(label, MetaTensor):
            return
        affine = image.affine.double().numpy()
        distance = _corner_distance(affine, label.affine.double().numpy(), tuple(image.shape[1:]))
        if not distance <= _FAR * float(np.linalg.norm(affine[:3, :3], axis=0).min()):
            raise ValueError(
                f"the mask lies up to {distance:.3g} mm away from its scan{named(label)}; copy the scan's affine to "
                "the mask if their voxels match, else resample the mask"
            )


def _corner_distance(first: np.ndarray, second: np.ndarray, shape: tuple[int, ...]) -> float:
    """Largest distance in mm between where two affines put the corners of a volume."""
    corners = np.array([[*corner, 1.0] for corner in np.ndindex(2, 2, 2)])
    corners[:, :3] *= np.array(shape) - 1
    return float(np.linalg.norm(((first - second) @ corners.T)[:3], axis=0).max())


def _perpendicular(affine: torch.Tensor) -> torch.Tensor:
    """The affine with axes that are exactly perpendicular, where they are so but for rounding; else as it is."""
    lengths = affine[:3, :3].norm(dim=0)
    directions = affine[:3, :3] / lengths
    left, _, right = torch.linalg.svd(directions)
    turned = left @ right
    if bool((turned - directions).abs().max() > _ROUNDING):
        return affine
    result = affine.clone()
    result[:3, :3] = turned * lengths
    return result


class ScanSpacingd(Spacingd):  # type: ignore[misc]
    """MONAI's ``Spacingd``, without two faults. Arguments are those of ``Spacingd``.

    Since MONAI 1.6 it takes every entry ``<key>_...`` of the data for metadata, calls ``update`` on it where the image
    is NIfTI, and fails on what is no dictionary: the ``image_path`` that MONAI Label adds to each request, say. And it
    lays its grid from a corner of the scan or from the middle, as the last digits of an oblique affine have it, so that
    one scan gets two grids as NIfTI and as DICOM, and a mask may get another than its scan. Here rounding is taken out
    of the affine first.
    """

    def __call__(self, data: Mapping[Hashable, Any], lazy: bool | None = None) -> dict[Hashable, Any]:
        """Resample the images; all other entries come back as they are."""
        prefixes = tuple(f"{key}_" for key in self.keys)
        hidden = [
            key
            for key, value in data.items()
            if key not in self.keys and not (isinstance(value, dict) and str(key).startswith(prefixes))
        ]
        changed = {key: value for key, value in data.items() if key not in hidden}
        for key in self.key_iterator(changed):
            if isinstance(changed[key], MetaTensor):
                meta, steps = dict(changed[key].meta), changed[key].applied_operations
                meta["affine"] = _perpendicular(changed[key].affine.double())
                changed[key] = MetaTensor(changed[key].as_tensor(), meta=meta, applied_operations=steps)
        changed = super().__call__(changed, lazy)
        return {key: data[key] if key in hidden else changed[key] for key in data}
