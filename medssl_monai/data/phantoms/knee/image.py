"""A knee exam's three series: one anatomy on three stacks of thick slices, with the scanner's bias and noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medssl_monai.core import generator
from medssl_monai.data.phantoms.knee.anatomy import Knee, draw_knee, knee_solids, rotation
from medssl_monai.data.phantoms.knee.findings import Findings
from medssl_monai.data.phantoms.knee.shapes import Array, Solid, paint

PLANES = ("sagittal", "coronal", "axial")
_WATER = {  # proton density with the fat suppressed: fluid bright, marrow and fat dark
    "skin": 0.45, "fat": 0.20, "muscle": 0.40, "vessel": 0.75, "synovium": 0.42, "fluid": 0.98, "tendon": 0.06,
    "ligament": 0.11, "torn": 0.36, "tear": 0.86, "meniscus": 0.08, "cartilage": 0.62, "cortical": 0.05,
    "marrow": 0.19, "oedema": 0.66,
}  # fmt: skip
_FAT = {  # proton density without suppression: fat and marrow bright
    "skin": 0.50, "fat": 0.88, "muscle": 0.36, "vessel": 0.22, "synovium": 0.52, "fluid": 0.66, "tendon": 0.07,
    "ligament": 0.13, "torn": 0.40, "tear": 0.62, "meniscus": 0.10, "cartilage": 0.50, "cortical": 0.06,
    "marrow": 0.76, "oedema": 0.42,
}  # fmt: skip
CONTRAST: Mapping[str, Mapping[str, float]] = {"sagittal": _WATER, "coronal": _FAT, "axial": _WATER}
#: directions of columns and rows in RAS, as scanners show them: from the front, above, or the patient's right first
_AXES = {
    "sagittal": ((0.0, -1.0, 0.0), (0.0, 0.0, -1.0)),
    "coronal": ((-1.0, 0.0, 0.0), (0.0, 0.0, -1.0)),
    "axial": ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0)),
}
_EXTENT = {"sagittal": (84.0, 110.0), "coronal": (84.0, 112.0), "axial": (90.0, 120.0)}
_FULL_SCALE = 1000.0  # stored value of intensity 1
_THROUGH = np.array([-1 / 3, 0.0, 1 / 3])  # places within a slice, in slice thicknesses, whose mean it shows
_CHUNK = 1 << 17  # points painted at a time: they stay in the processor's cache


@dataclass(frozen=True)
class Series:
    """How one plane is scanned.

    Attributes:
        plane: name of the plane.
        affine: (4, 4) from (column, row, slice) to RAS mm.
        shape: columns, rows, slices.
        thickness: thickness of a slice in mm; the distance of slices may be more.
    """

    plane: str
    affine: Array
    shape: tuple[int, int, int]
    thickness: float

    @property
    def pixel(self) -> float:
        """Pixel spacing in mm."""
        return float(np.linalg.norm(self.affine[:3, 0]))

    @property
    def distance(self) -> float:
        """Distance of neighbouring slices in mm."""
        return float(np.linalg.norm(self.affine[:3, 2]))


def draw_series(seed: int, exam: int, plane: str, size: int, field_of_view: float, knee: Knee) -> Series:
    """The stack of a plane, a function of (seed, exam, plane), placed by an operator who aims at the joint.

    Args:
        seed: seed of the dataset.
        exam: number of the exam.
        plane: one of ``PLANES``.
        size: edge of a slice in pixels.
        field_of_view: edge of a slice in mm, on average.
        knee: what is scanned.
    """
    rng = generator(seed, "knee", "series", exam, plane)
    thickness = float(rng.uniform(3.0, 4.0))
    distance = thickness + float(rng.choice([0.0, 0.3, 0.4]))
    count = int(np.clip(round(rng.uniform(*_EXTENT[plane]) * knee.scale / distance), 20, 36))
    pixel = field_of_view * float(rng.uniform(0.95, 1.05)) / size
    # the operator follows the knee's own axes about half way
    tilt = rotation(*(0.5 * np.array(knee.angles) + rng.normal(0, 0.02, 3)))
    columns, rows = (tilt @ np.array(axis) for axis in _AXES[plane])
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = columns * pixel, rows * pixel
    affine[:3, 2] = _normal(columns, rows) * distance
    middle = np.array([(size - 1) / 2, (size - 1) / 2, (count - 1) / 2])
    aim = np.array(knee.centre) + rng.normal(0, 2.0, 3) + tilt @ np.array([0.0, 0.0, 6.0])
    affine[:3, 3] = aim - affine[:3, :3] @ middle
    return Series(plane, affine, (size, size, count), thickness)


def _normal(columns: Array, rows: Array) -> Array:
    """Direction of the slices: that of DICOM's cross product, which keeps its handedness in RAS."""
    return np.asarray(np.cross(columns, rows))


def clean_image(knee: Knee, series: Series, palette: Mapping[str, float]) -> Array:
    """Noise-free intensities (columns, rows, slices), float32: each voxel the mean over its slice's thickness."""
    return paint_series(knee_solids(knee), series, palette)


def paint_series(solids: Sequence[Solid], series: Series, palette: Mapping[str, float]) -> Array:
    """Solids as a series shows them (columns, rows, slices), float32: each voxel the mean over its slice's thickness.

    Args:
        solids: the structures, from the outermost to the innermost.
        series: where the slices lie.
        palette: intensity of each tissue; air is 0.
    """
    columns, rows, count = series.shape
    through = _THROUGH * series.thickness / series.distance
    step = max(1, _CHUNK // (columns * rows * len(through)))
    picture = np.empty((count, rows, columns), np.float32)
    for start in range(0, count, step):
        slices = np.arange(start, min(start + step, count))
        places = (slices[:, None] + through).ravel()
        fine = paint(solids, series.affine, (columns, rows), places, palette, series.pixel)
        fine.reshape(len(slices), len(through), rows, columns).mean(axis=1, out=picture[slices[0] : slices[-1] + 1])
    return np.asarray(picture.transpose(2, 1, 0))


def scanned_image(clean: Array, series: Series, rng: np.random.Generator, noise: float) -> np.ndarray:
    """The stored image (columns, rows, slices), uint16: the coil's bias over the field, then Rician noise.

    Args:
        clean: noise-free intensities.
        series: where they lie.
        rng: generator of bias and noise.
        noise: standard deviation of the noise in each of the two channels, as a part of full scale.
    """
    axes = [np.linspace(-1, 1, n, dtype=np.float32) for n in series.shape]
    slope, bend = rng.normal(0, 0.12, 3).astype(np.float32), rng.uniform(-0.25, 0.05, 3).astype(np.float32)
    x, y, z = (np.exp(a * t + b * t * t) for a, b, t in zip(slope, bend, axes))
    picture = clean * x[:, None, None] * y[None, :, None] * z[None, None, :]
    sigma = np.float32(noise)
    real = rng.standard_normal(picture.shape, dtype=np.float32)
    real *= sigma
    real += picture
    imaginary = rng.standard_normal(picture.shape, dtype=np.float32)
    imaginary *= sigma
    np.hypot(real, imaginary, out=real)
    real *= np.float32(_FULL_SCALE * rng.uniform(0.7, 1.3))
    real += np.float32(0.5)
    stored: np.ndarray = np.clip(real, 0, 65535).astype(np.uint16)
    return stored


def draw_palette(seed: int, exam: int, plane: str) -> dict[str, float]:
    """Intensities of the tissues in a series, varied about those of its contrast."""
    rng = generator(seed, "knee", "contrast", exam, plane)
    return {name: float(value * np.exp(rng.normal(0, 0.1))) for name, value in CONTRAST[plane].items()}


def render_series(
    findings: Findings, seed: int, exam: int, plane: str, size: int, field_of_view: float, noise: float
) -> tuple[np.ndarray, Series]:
    """One series of an exam: the stored image (columns, rows, slices), uint16, and where it lies.

    Anatomy is a function of (seed, exam), stack, contrast, bias and noise of (seed, exam, plane); findings change
    nothing but what they damage.

    Args:
        findings: what is wrong with the knee.
        seed: seed of the dataset.
        exam: number of the exam.
        plane: one of ``PLANES``.
        size: edge of a slice in pixels.
        field_of_view: edge of a slice in mm, on average.
        noise: see :func:`scanned_image`.
    """
    knee = draw_knee(seed, exam, findings)
    series = draw_series(seed, exam, plane, size, field_of_view, knee)
    rng = generator(seed, "knee", "scanner", exam, plane)
    return scanned_image(clean_image(knee, series, draw_palette(seed, exam, plane)), series, rng, noise), series
