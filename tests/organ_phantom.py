"""Scans of smooth organs that are known in world coordinates, on any grid, as NIfTI and as DICOM."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

ORGANS = {3: "liver", 7: "spleen"}
#: middle and half axes in RAS millimetres
SHAPES = {3: ((35.0, 5.0, 10.0), (40.0, 34.0, 36.0)), 7: ((-45.0, -12.0, 22.0), (24.0, 22.0, 26.0))}


def turn(degrees: tuple[float, float, float]) -> np.ndarray:
    """Rotation about x, then y, then z."""
    result = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        c, s = np.cos(angle), np.sin(angle)
        one = np.eye(3)
        i, j = [(1, 2), (2, 0), (0, 1)][axis]
        one[i, i], one[j, j], one[i, j], one[j, i] = c, c, -s, s
        result = one @ result
    return result


def grid(axes: str, spacing: tuple[float, float, float], degrees: tuple[float, float, float] = (0, 0, 0), shear=0.0):
    """Shape and affine of a scan of 200 x 160 x 140 mm about the organs, its axes towards these directions."""
    extent = {"R": 200.0, "L": 200.0, "A": 160.0, "P": 160.0, "S": 140.0, "I": 140.0}
    towards = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
    shape = tuple(round(extent[letter] / length) for letter, length in zip(axes, spacing))
    matrix = turn(degrees) @ np.array([towards[letter] for letter in axes], float).T @ np.diag(spacing)
    matrix[:, 2] += shear * matrix[:, 1]
    affine = np.eye(4)
    affine[:3, :3] = matrix
    affine[:3, 3] = np.array([0.0, 0.0, 10.0]) - matrix @ (np.array(shape) - 1) / 2
    return shape, affine


def draw(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """Label map of the organs on a grid, from the positions of its voxels."""
    voxels = np.moveaxis(np.indices(shape), 0, -1)
    world = voxels @ affine[:3, :3].T + affine[:3, 3]
    labels = np.zeros(shape, np.uint8)
    for value, (middle, half) in SHAPES.items():
        labels[(((world - middle) / half) ** 2).sum(-1) < 1] = value
    return labels


def picture(labels: np.ndarray) -> np.ndarray:
    """An image in which every organ has its own grey, on a body of 100, darker towards the first corner."""
    image = np.full(labels.shape, 100, np.int16)
    image[labels == 3], image[labels == 7] = 500, 900
    return (image - np.linspace(40, 0, labels.shape[0], dtype=np.int16)[:, None, None]).astype(np.int16)


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    """Write a NIfTI file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def write_dicom(folder: Path, array: np.ndarray, affine: np.ndarray) -> None:
    """Write a series, a file a slice, in an order that says nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    series, study = generate_uid(), generate_uid()
    for k in range(array.shape[2]):
        one = Dataset()
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = MRImageStorage
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = generate_uid()
        one.Modality, one.SeriesInstanceUID, one.StudyInstanceUID = "MR", series, study
        one.PatientName, one.PatientID = "Phantom", "1"
        directions = (lps[:3, :2] / spacing[:2]).T.ravel()
        one.ImageOrientationPatient = [f"{value:.10f}" for value in directions]
        one.ImagePositionPatient = [f"{value:.8f}" for value in lps[:3, 3] + k * lps[:3, 2]]
        one.PixelSpacing = [f"{spacing[1]:.8f}", f"{spacing[0]:.8f}"]
        one.SliceThickness, one.InstanceNumber = f"{spacing[2]:.6f}", k + 1
        one.Columns, one.Rows = array.shape[:2]
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated = one.BitsStored = 16
        one.HighBit, one.PixelRepresentation = 15, 1
        one.PixelData = np.ascontiguousarray(array[:, :, k].T, "<i2").tobytes()
        one.save_as(folder / f"{(k * 7) % 101:03d}.dcm", enforce_file_format=True)
