"""One slice of a DICOM image: its header, place in the patient, rescale and pixels."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medssl_monai.core import DataError
from medssl_monai.data.readers.common import FORMAT_SUFFIXES, damaged_file, suffix_of

HEADER_ERRORS = (
    InvalidDicomError, BytesLengthException, OSError, EOFError, ValueError, TypeError, KeyError, AttributeError,
    NotImplementedError, struct.error,
)  # fmt: skip
_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Modality", "ImageType",
    "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "BitsAllocated", "BitsStored",
    "PixelRepresentation", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "ImagerPixelSpacing",
    "NominalScannedPixelSpacing", "SliceThickness", "SpacingBetweenSlices", "RescaleSlope", "RescaleIntercept",
    "ModalityLUTSequence", "EchoTime", "EchoNumbers", "AcquisitionNumber", "TemporalPositionIdentifier", "TriggerTime",
    "ContentTime", "DiffusionBValue", "InstanceNumber", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
_LONGEST_REASON = 300
_MEASURED = ("CT", "PT")  # their values are quantities; how they are displayed says nothing about them


@dataclass(frozen=True)
class Slice:
    """One two-dimensional image: a file, or one frame of a multi-frame file.

    Attributes:
        path: the file.
        header: the file's header without pixels.
        frame: number of the frame in a multi-frame file, from 0; ``None`` for a single-frame file.
    """

    path: Path
    header: Dataset
    frame: int | None = None

    def element(self, keyword: str, group: str = "") -> Any:
        """Value of an element; for a frame, of its functional group, first its own, then the shared one."""
        if self.frame is not None and group:
            for holder in (
                self.header.PerFrameFunctionalGroupsSequence[self.frame],
                self.header.get("SharedFunctionalGroupsSequence", [Dataset()])[0],
            ):
                items = holder.get(group)
                if items and keyword in items[0]:
                    return items[0][keyword].value
        return self.header.get(keyword)

    def numbers(self, keyword: str, count: int, group: str = "") -> NDArray[np.float64] | None:
        """An element's ``count`` finite numbers; ``None`` where it is absent or empty."""
        value = self.element(keyword, group)
        if value is None or value == "":
            return None
        try:
            values = np.array([value] if count == 1 else list(value), dtype=np.float64)
        except (TypeError, ValueError):
            values = np.array([np.nan])
        if values.shape != (count,) or not np.isfinite(values).all():
            raise DataError(f"{keyword} is not {count} finite numbers", where=self.path, found=value)
        return values

    @property
    def identity(self) -> tuple[Any, ...]:
        """What two copies of one file share and two slices do not."""
        # A file without an SOPInstanceUID has nothing that could prove it a copy
        name = self.header.get("SOPInstanceUID") or self.path
        return (name, self.frame, *(str(self.header.get(tag)) for tag in _TAGS if not tag.endswith("Sequence")))

    @cached_property
    def size(self) -> tuple[int, int, int]:
        """Columns, rows and channels of the pixels as they are read."""
        palette = self.header.get("PhotometricInterpretation") == "PALETTE COLOR"
        return (
            int(self.header.Columns),
            int(self.header.Rows),
            3 if palette else int(self.header.get("SamplesPerPixel", 1)),
        )

    @cached_property
    def position(self) -> NDArray[np.float64] | None:
        """Centre of the first pixel in LPS mm."""
        return self.numbers("ImagePositionPatient", 3, "PlanePositionSequence")

    @cached_property
    def orientation(self) -> NDArray[np.float64] | None:
        """Unit vectors in LPS along which columns count up (first three numbers) and rows count up (last three)."""
        values = self.numbers("ImageOrientationPatient", 6, "PlaneOrientationSequence")
        if values is None:
            return None
        axes = values.reshape(2, 3)
        if not np.allclose(axes @ axes.T, np.eye(2), atol=1e-2):
            raise DataError(
                "ImageOrientationPatient is not two perpendicular unit vectors", where=self.path, found=values.tolist()
            )
        return values

    @cached_property
    def spacing(self) -> NDArray[np.float64] | None:
        """Mm between columns and between rows (in this order)."""
        for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
            values = self.numbers(keyword, 2, "PixelMeasuresSequence")
            if values is not None:
                if (values <= 0).any():
                    raise DataError(f"{keyword} must be positive", where=self.path, found=values.tolist())
                return values[::-1]
        return None

    @property
    def depth(self) -> float:
        """Mm to the next slice as the header claims; only for a slice that has no neighbours."""
        for keyword in ("SpacingBetweenSlices", "SliceThickness"):
            value = self.numbers(keyword, 1, "PixelMeasuresSequence")
            if value is not None and value[0]:
                return abs(float(value[0]))
        return 1.0

    @cached_property
    def rescale(self) -> tuple[float, float]:
        """Slope and intercept from stored to real values; (1, 0) where the header has none."""
        slope, intercept = (
            self.numbers(keyword, 1, "PixelValueTransformationSequence")
            for keyword in ("RescaleSlope", "RescaleIntercept")
        )
        return (1.0 if slope is None else float(slope[0])), (0.0 if intercept is None else float(intercept[0]))

    @property
    def stored_type(self) -> np.dtype[Any]:
        """Type of the stored values."""
        if self.header.get("PhotometricInterpretation") == "PALETTE COLOR":
            return np.dtype("uint8")
        bits = max(int(self.header.get("BitsAllocated", 16)), 8)
        if "PixelRepresentation" not in self.header and bits >= 32:
            return np.dtype(f"float{bits}")
        return np.dtype(f"{'int' if self.header.get('PixelRepresentation') else 'uint'}{bits}")

    @property
    def inverted(self) -> bool:
        """Whether high stored values mean dark and are turned round."""
        return (
            self.header.get("PhotometricInterpretation") == "MONOCHROME1"
            and self.header.get("Modality") not in _MEASURED
            and self.stored_type.kind in "iu"
        )

    def real_values(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Stored values of this slice (rows, columns[, 3]) as real values: inverted if MONOCHROME1, rescaled.

        The inversion maps the stored range onto itself, so it depends on the format alone and not on the content.
        """
        if stored.ndim == 3 and stored.shape[-1] >= 3:
            return stored
        if "ModalityLUTSequence" in self.header:
            values = apply_modality_lut(stored, self.header)
            top = 2 ** int(self.header.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
            return (top - values if self.inverted else values).astype(np.float32)
        if self.inverted:
            bits = int(self.header.get("BitsStored", stored.dtype.itemsize * 8))
            # Of a signed range [-2^(b-1), 2^(b-1) - 1] the two ends add up to -1, of an unsigned one to its top
            ends = -1 if stored.dtype.kind == "i" else 2**bits - 1
            stored = np.subtract(ends, stored, dtype=stored.dtype)
        slope, intercept = self.rescale
        if (slope, intercept) == (1.0, 0.0):
            return stored
        return (stored.astype(np.float64) * slope + intercept).astype(np.float32)

    @property
    def is_rescaled(self) -> bool:
        """Whether real values are of another type (float32) than stored ones."""
        return self.size[2] == 1 and ("ModalityLUTSequence" in self.header or self.rescale != (1.0, 0.0))


def read_header(path: Path) -> Dataset | None:
    """Header of a DICOM file; ``None`` when the file is not DICOM.

    A file without preamble counts when its suffix says DICOM and its content parses.

    Raises:
        DataError: when the file is DICOM, but its header is damaged.
    """
    with open(path, "rb") as stream:
        head = stream.read(132)
    preamble = head[128:] == b"DICM"
    if not preamble and suffix_of(path) not in FORMAT_SUFFIXES["dicom"]:
        return None
    with damaged_file(path, "DICOM", *HEADER_ERRORS):
        header = pydicom.dcmread(
            path, stop_before_pixels=True, specific_tags=[*_TAGS, "StudyInstanceUID"], force=not preamble
        )
        for _ in header:  # converts every value now, so that a malformed one is found here
            pass
    return header if preamble or "SOPClassUID" in header else None


def slices_of(path: Path, header: Dataset) -> list[Slice]:
    """The slices in one file; none when it holds no pixels (reports, structure sets, presentation states).

    Raises:
        DataError: for a multi-frame file that does not say where its frames lie, and for segmentation objects.
    """
    if not all(keyword in header and header[keyword].value for keyword in ("Rows", "Columns", "BitsAllocated")):
        return []
    with damaged_file(path, "DICOM", *HEADER_ERRORS):
        frames = int(header.get("NumberOfFrames") or 1)
    if header.get("Modality") == "SEG":
        raise DataError(
            "is a DICOM segmentation object, which is not supported",
            where=path,
            advice="Convert it to a NIfTI label map (for example with 3D Slicer or dcmqi).",
        )
    groups = header.get("PerFrameFunctionalGroupsSequence")
    if groups and len(groups) == frames:
        return [Slice(path, header, frame) for frame in range(frames)]
    if frames > 1:
        raise DataError(
            "is a multi-frame DICOM without a place for each frame (cine, ultrasound, nuclear medicine), "
            "which is not supported",
            where=path,
            found=f"{frames} frames",
            expected="single-frame files, or an enhanced object with per-frame functional groups",
            advice="Convert it to NIfTI, or save the frames you need as single images.",
        )
    return [Slice(path, header)]


@contextmanager
def _decoding(path: Path, header: Dataset) -> Iterator[None]:
    try:
        yield
    except (*HEADER_ERRORS, RuntimeError, IndexError) as error:
        if isinstance(error, DataError):
            raise
        syntax = getattr(getattr(header, "file_meta", None), "TransferSyntaxUID", None)
        named = f" ({syntax.name})" if syntax is not None else ""
        reason = " ".join(str(error).split()) or type(error).__name__
        if len(reason) > _LONGEST_REASON:
            reason = reason[:_LONGEST_REASON] + "..."
        raise DataError(
            f"the pixels cannot be decoded{named}: {reason}",
            where=path,
            advice="The file is cut short or damaged, or its compression has no decoder here: copy it again, "
            "or decompress it first (for example with gdcmconv --raw).",
        ) from error


def _native(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def stored_pixels(path: Path, header: Dataset) -> NDArray[Any]:
    """Stored values of a file, (frames,) rows, columns (, 3); YBR and palettes become RGB.

    Raises:
        DataError: when the pixels are cut short or cannot be decoded.
    """
    palette = header.get("PhotometricInterpretation") == "PALETTE COLOR"
    has_preamble = bool(getattr(header, "preamble", None))
    # pydicom finds the pixels of a deflated file only once it has read the file as a whole
    deflated = getattr(header.file_meta, "TransferSyntaxUID", None) == DeflatedExplicitVRLittleEndian
    with _decoding(path, header):
        if has_preamble and not palette and not deflated:
            return _native(pixel_array(path))
        whole = pydicom.dcmread(path, force=not has_preamble)
        if "TransferSyntaxUID" not in whole.file_meta:
            implicit, little = whole.original_encoding
            explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
            whole.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
        array = pixel_array(whole)
        if not palette:
            return _native(array)
        colours = apply_color_lut(array, whole)
        # Tables of 16 bits hold the colour in the upper half, as displays show it
        return colours if colours.dtype == np.uint8 else (colours >> 8).astype(np.uint8)
