"""Organs of label maps against their truth, scan by scan: overlap, distance of the surfaces, volumes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from medssl_monai.metrics.checks import BoolArray, FloatArray

Case = Literal["both", "missed", "invented", "absent"]
"""An organ of a scan: in truth and prediction, in the truth alone, in the prediction alone, in neither."""

CASES: tuple[Case, ...] = ("both", "missed", "invented", "absent")


@dataclass(frozen=True)
class OrganScore:
    """One organ of one scan. What is not defined is ``None``, never NaN, and ``case`` says why.

    Attributes:
        organ: its name.
        case: ``both``; ``missed`` (the truth shows it, the prediction does not); ``invented`` (the prediction shows it,
            the truth does not); ``absent`` (neither does).
        dice: 2 |P and T| / (|P| + |T|); 0 where it is missed or invented, ``None`` where it is absent: a scan without
            the organ that is left empty is right, but says nothing of how well the organ is drawn.
        hd95_mm: 95th percentile of the distances between the two surfaces, the larger of both directions; ``None``
            unless there are two surfaces.
        volume_ml: predicted.
        true_volume_ml: of the truth.
    """

    organ: str
    case: Case
    dice: float | None
    hd95_mm: float | None
    volume_ml: float
    true_volume_ml: float

    @property
    def volume_error_ml(self) -> float:
        """Predicted minus true volume."""
        return self.volume_ml - self.true_volume_ml

    @property
    def volume_error_percent(self) -> float | None:
        """Predicted minus true volume in percent of the true one; ``None`` where the truth is empty."""
        return 100 * self.volume_error_ml / self.true_volume_ml if self.true_volume_ml else None


def organ_scores(
    prediction: NDArray[np.integer[Any]],
    truth: NDArray[np.integer[Any]],
    organs: Mapping[int, str],
    affine: NDArray[np.float64],
) -> list[OrganScore]:
    """Score a label map organ by organ; Dice and HD95 are MONAI's.

    Distances are measured along the voxel axes, which are taken as perpendicular: of a scan with tilted gantry they are
    those of the untilted one. Volumes take the tilt into account.

    Args:
        prediction: (X, Y, Z), whole numbers.
        truth: (X, Y, Z), on the same grid.
        organs: value to name; other values in the maps are background.
        affine: (4, 4), voxel indices to millimetres.

    Returns:
        One score an organ, in the order of ``organs``.

    Raises:
        ValueError: for maps of different shape, that are no volumes or hold other than whole numbers, no organ, or an
            affine that maps to no volume.
    """
    maps = [np.asarray(one) for one in (prediction, truth)]
    for name, one in zip(("prediction", "truth"), maps):
        if one.ndim != 3 or one.dtype.kind not in "iub":
            raise ValueError(f"{name}: expected whole numbers (X, Y, Z), got {one.dtype} of shape {one.shape}")
    if maps[0].shape != maps[1].shape:
        raise ValueError(f"the prediction has shape {maps[0].shape}, the truth {maps[1].shape}; expected one grid")
    if not organs or min(organs) < 1:
        raise ValueError(f"organs: expected names of values from 1 on, got {dict(organs)}")
    matrix = np.asarray(affine, dtype=np.float64)[:3, :3]
    litres = abs(float(np.linalg.det(matrix)))
    if matrix.shape != (3, 3) or not np.isfinite(litres) or litres < 1e-12:
        raise ValueError(f"affine: expected (4, 4) with three independent axes, got {np.asarray(affine).tolist()}")
    spacing = np.linalg.norm(matrix, axis=0)
    return [_score(maps, value, name, spacing, litres / 1000) for value, name in organs.items()]


def _score(
    maps: Sequence[NDArray[Any]], value: int, name: str, spacing: NDArray[np.float64], voxel_ml: float
) -> OrganScore:
    masks: list[BoolArray] = [one == value for one in maps]
    shown = masks[0] | masks[1]
    box = find_objects(shown.astype(np.uint8))  # the rest of the volume changes nothing and costs most of the time
    if not box:
        return OrganScore(name, "absent", None, None, 0.0, 0.0)
    predicted, true = (torch.from_numpy(np.ascontiguousarray(mask[box[0]]))[None, None] for mask in masks)
    volumes = [int(mask.sum()) * voxel_ml for mask in (predicted, true)]
    if not predicted.any() or not true.any():
        return OrganScore(name, "missed" if true.any() else "invented", 0.0, None, *volumes)
    dice = float(compute_dice(predicted, true))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI 1.6 warns of an argument that it gives itself
        distance = compute_hausdorff_distance(
            predicted, true, include_background=True, percentile=95, spacing=[float(length) for length in spacing]
        )
    return OrganScore(name, "both", dice, float(distance), *volumes)


def organ_table(scores: Sequence[Sequence[OrganScore]], field: str) -> FloatArray:
    """One figure of every scan and organ (N, O), NaN where it is not defined.

    Args:
        scores: of N scans, each of the same O organs in the same order.
        field: a figure of :class:`OrganScore`.

    Raises:
        ValueError: for no scan, or scans of different organs.
    """
    if not scores:
        raise ValueError("no scan was scored: there is nothing to report")
    names = [one.organ for one in scores[0]]
    for number, row in enumerate(scores):
        if [one.organ for one in row] != names:
            raise ValueError(f"scan {number} has organs {[one.organ for one in row]}; expected {names}, as scan 0")
    values = [[getattr(one, field) for one in row] for row in scores]
    return np.array([[np.nan if one is None else float(one) for one in row] for row in values])
