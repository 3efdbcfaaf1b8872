"""A phantom's series as a scanner would send it: a folder of MR Image Storage files, one a slice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from medssl_monai.core import atomic_path, make_folder
from medssl_monai.data.phantoms.knee.image import PLANES, Series
from medssl_monai.data.phantoms.knee.shapes import Array

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_DIGITS = 10  # of a decimal string, which has room for 16 characters


def write_dicom_series(
    folder: Path,
    image: np.ndarray,
    series: Series,
    patient: str,
    columns: Mapping[str, object],
    origin: str,
    attributes: Mapping[str, object] | None = None,
) -> None:
    """Write one file a slice into a folder, the same bytes every time.

    Position and orientation are those of the NIfTI file of the same series: DICOM's axes point to the patient's left
    and back where NIfTI's point to the right and front.

    Args:
        folder: folder of the series; made where it does not exist.
        image: (columns, rows, slices), uint16.
        series: where the image lies.
        patient: id of the patient.
        columns: age, sex and side.
        origin: what tells the dataset from others; the unique identifiers are made from it.
        attributes: DICOM attributes by keyword, in place of those of a knee.

    Raises:
        OutputError: when the folder or a file cannot be written.
    """
    make_folder(folder)
    affine = _RAS_TO_LPS @ series.affine
    for number in range(image.shape[2]):
        one = _header(series, patient, columns, origin)
        for keyword, value in (attributes or {}).items():
            setattr(one, keyword, value)
        place = affine @ np.array([0.0, 0.0, number, 1.0])
        _place(one, affine, place[:3])
        one.InstanceNumber = number + 1
        one.SOPInstanceUID = generate_uid(entropy_srcs=[origin, patient, series.plane, str(number)])
        one.SliceThickness = _decimal(series.thickness)
        one.SpacingBetweenSlices = _decimal(series.distance)
        one.PixelData = np.ascontiguousarray(image[:, :, number].T, "<u2").tobytes()
        one.Rows, one.Columns = image.shape[1], image.shape[0]
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
        with atomic_path(folder / f"{number + 1:04d}.dcm") as temporary:
            one.save_as(temporary, enforce_file_format=True)


def _place(one: Dataset, affine: Array, position: Array) -> None:
    directions = affine[:3, :2] / np.linalg.norm(affine[:3, :2], axis=0)
    one.ImageOrientationPatient = [_decimal(value) for value in directions.T.ravel()]
    one.ImagePositionPatient = [_decimal(value) for value in position]
    # between rows first, which is the length of a step down a column
    one.PixelSpacing = [_decimal(float(np.linalg.norm(affine[:3, axis]))) for axis in (1, 0)]


def _decimal(value: float) -> str:
    return f"{value:.{_DIGITS}g}"


def _header(series: Series, patient: str, columns: Mapping[str, object], origin: str) -> Dataset:
    """What is the same in all slices of a series."""
    one = Dataset()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.file_meta.MediaStorageSOPClassUID = MRImageStorage
    one.SOPClassUID = MRImageStorage
    one.SpecificCharacterSet = "ISO_IR 192"
    one.PatientName, one.PatientID = f"Phantom^{patient}", patient
    one.PatientBirthDate = ""
    one.PatientSex = "F" if columns.get("sex") == "female" else "M"
    one.PatientAge = f"{int(str(columns.get('age', 0))):03d}Y"
    one.Laterality = "R" if columns.get("side") == "right" else "L"
    one.StudyInstanceUID = generate_uid(entropy_srcs=[origin, patient, "study"])
    one.FrameOfReferenceUID = generate_uid(entropy_srcs=[origin, patient, "frame"])
    one.SeriesInstanceUID = generate_uid(entropy_srcs=[origin, patient, series.plane])
    one.StudyID, one.StudyDate, one.StudyTime, one.AccessionNumber = "1", "20200101", "120000", ""
    one.ReferringPhysicianName, one.Manufacturer, one.PositionReferenceIndicator = "", "phantom", ""
    one.Modality, one.BodyPartExamined, one.PatientPosition = "MR", "KNEE", "FFS"
    one.SeriesNumber = PLANES.index(series.plane) + 1
    one.SeriesDescription = f"{series.plane} PD{'' if series.plane == 'coronal' else ' FS'}"
    one.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    one.ScanningSequence, one.SequenceVariant, one.MRAcquisitionType = "SE", "SK", "2D"
    one.ScanOptions = "" if series.plane == "coronal" else "FS"
    one.RepetitionTime, one.EchoTime, one.EchoTrainLength = "3000", "30", "8"
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 0
    return one
