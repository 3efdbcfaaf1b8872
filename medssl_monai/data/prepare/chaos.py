"""CHAOS (Kavur et al. 2021, doi:10.1016/j.media.2020.101950): abdominal MR and CT as DICOM slices, masks as PNG."""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medssl_monai.core import DataError
from medssl_monai.data.prepare.layout import PREPARERS, Draft, Entry, Preparer, one_of, option
from medssl_monai.data.prepare.source import Material, brief, path_inside, raise_problems, sorted_entries
from medssl_monai.data.readers import read_image
from medssl_monai.data.readers.dicom import file_slices
from medssl_monai.data.readers.dicom_stack import Stack, build_stack, read_stack

MR_ORGANS = {0: "background", 1: "liver", 2: "right kidney", 3: "left kidney", 4: "spleen"}
CT_ORGANS = {0: "background", 1: "liver"}
#: grey values of the published MR masks, nominally 63, 126, 189 and 252: above the first, up to the second
_GREY = {1: (55, 70), 2: (110, 135), 3: (175, 200), 4: (240, 255)}
_TRAIN, _TEST = "Train_Sets", "Test_Sets"


@dataclass(frozen=True)
class _Sequence:
    """Where the slices and masks of a patient lie below ``Train_Sets``."""

    modality: str
    slices: str
    masks: str


SEQUENCES = {
    "t2spir": _Sequence("MR", "T2SPIR/DICOM_anon", "T2SPIR/Ground"),
    "t1dual-in": _Sequence("MR", "T1DUAL/DICOM_anon/InPhase", "T1DUAL/Ground"),
    "t1dual-out": _Sequence("MR", "T1DUAL/DICOM_anon/OutPhase", "T1DUAL/Ground"),
    "ct": _Sequence("CT", "DICOM_anon", "Ground"),
}


@dataclass
class _Found:
    """What is gathered while patients are read."""

    entries: list[Entry] = field(default_factory=list)
    organs: dict[str, frozenset[int]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


@PREPARERS.register("chaos")
@dataclass(frozen=True, kw_only=True)
class ChaosPreparer(Preparer):
    """One volume a patient, as NIfTI on the grid of its DICOM slices; nothing is resampled or clipped."""

    help: ClassVar[str] = "CHAOS: Train_Sets/MR or /CT with a folder a patient (and Test_Sets, which has no masks)"
    subject_advice: ClassVar[str] = "The patient is the folder's name."

    sequence: str = option(
        "t2spir (default), t1dual-in, t1dual-out (MR, four organs) or ct (liver)", default="t2spir",
        parse=one_of(*SEQUENCES), metavar="SEQUENCE",
    )  # fmt: skip

    def read(self, source: Path) -> Draft:
        """See :meth:`Preparer.read`."""
        if not source.is_dir():
            raise DataError("a folder is needed, but this is a file", where=source)
        layout, found, notes = SEQUENCES[self.sequence], _Found(), []
        train = f"{_TRAIN}/" if (source / _TRAIN).is_dir() else ""
        patients = _patients(source, f"{train}{layout.modality}")
        if not patients:
            raise DataError(
                f"no folders of {layout.modality} patients here", where=source,
                expected=f"{_TRAIN}/{layout.modality}/1/{layout.slices}/*.dcm ...",
                found=brief(path.name for path in sorted_entries(source)) or "nothing",
            )  # fmt: skip
        for patient in patients:
            self._add(found, source, patient, labelled=True)
        if tests := _patients(source, f"{_TEST}/{layout.modality}"):
            notes.append(f"the publisher keeps the masks of {_TEST} back: {len(tests)} scans are unlabelled")
        for patient in tests:
            self._add(found, source, patient, labelled=False)
        raise_problems(found.problems, source, advice="Unpack the published archive again.")
        return Draft(
            task="segmentation",
            labels=dict(CT_ORGANS if layout.modality == "CT" else MR_ORGANS),
            entries=found.entries,
            name=f"chaos-{self.sequence}",
            modality=layout.modality,
            license="CC BY-SA 4.0",
            description=f"CHAOS (Kavur et al. 2021, doi:10.1016/j.media.2020.101950), sequence {self.sequence}",
            organs=found.organs,
            notes=tuple(notes),
        )

    def _add(self, found: _Found, source: Path, patient: str, *, labelled: bool) -> None:
        layout, name = SEQUENCES[self.sequence], f"{patient.rsplit('/', 1)[-1]}.nii.gz"
        shown = f"{patient}/{layout.slices}"
        label: Material | None = None
        try:
            files = _files(source, shown, ".dcm")
            stack = _stack(files, source / shown)
            image = Material.of_bytes(f"images/{name}", lambda: nifti_bytes(_voxels(stack), stack.affine))
            if labelled:
                shown = f"{patient}/{layout.masks}"
                pictures = _paired(stack, files, _files(source, shown, ".png"))
                mask = _mask(stack, pictures, layout.modality)
                label = Material.of_bytes(
                    f"labels/{name}",
                    lambda: nifti_bytes(_mask(stack, pictures, layout.modality), stack.affine),
                )
                found.organs[label.target] = frozenset(int(value) for value in np.unique(mask))
        except DataError as error:
            found.problems.append(f"{shown}: {_said(error)}")
        except ValueError as error:
            found.problems.append(f"{shown}: {error}")
        else:
            subject = f"{layout.modality}{patient.rsplit('/', 1)[-1]}"  # MR and CT are of different people
            found.entries.append(Entry(image, label, subject))


def _said(error: DataError) -> str:
    """What a reader objects to, with the file's name."""
    file = f"{Path(str(error.where)).name}: " if error.where is not None else ""
    return f"{file}{error.what}" + (f" (found {error.found})" if error.found is not None else "")


def nifti_bytes(array: NDArray[Any], affine: NDArray[np.float64]) -> bytes:
    """A volume (columns, rows, slices) as the content of a ``.nii.gz`` file, the same every time.

    Args:
        array: voxels.
        affine: (4, 4) from voxels to RAS mm.
    """
    volume = nib.Nifti1Image(array, affine)  # type: ignore[no-untyped-call]
    volume.header.set_xyzt_units("mm")  # type: ignore[no-untyped-call]
    volume.set_sform(affine, 1)  # type: ignore[no-untyped-call]
    volume.set_qform(affine, 1)  # type: ignore[no-untyped-call]
    return gzip.compress(volume.to_bytes(), 6, mtime=0)


def _patients(source: Path, folder: str) -> list[str]:
    """The patients' folders, relative to the source, in the order of their numbers."""
    if not (source / folder).is_dir():
        return []
    try:
        entries = list(sorted_entries(path_inside(source, folder)))
    except ValueError as error:
        raise DataError(f"{folder} {error}", where=source) from error
    names = [path.name for path in entries if path.is_dir() and path.name.isdecimal()]
    return [f"{folder}/{name}" for name in sorted(names, key=int)]


def _files(source: Path, folder: str, suffix: str) -> list[Path]:
    """The files of a folder with a suffix, in the order of their names with numbers counted as numbers.

    Raises:
        ValueError: when the folder or a file is missing or leads out of the source.
    """
    place = path_inside(source, folder)
    names = [path.name for path in place.iterdir() if path.suffix.lower() == suffix and not path.name.startswith(".")]
    if not names:
        raise ValueError(f"holds no {suffix} file")
    names.sort(key=lambda name: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)])
    return [path_inside(source, f"{folder}/{name}") for name in names]


def _stack(files: list[Path], folder: Path) -> Stack:
    """The slices of a folder by their positions.

    The anonymised files of a series may differ in their SeriesInstanceUID: the folder alone says what belongs together.
    """
    return build_stack([one for path in files for one in file_slices(path)], folder)


def _paired(stack: Stack, files: list[Path], pictures: list[Path]) -> list[Path]:
    """The mask of each slice of a stack: the one of the same name, else the one at the same place by name.

    Raises:
        ValueError: when there are more or fewer masks than slices.
    """
    if len(files) != len(pictures):
        raise ValueError(f"holds {len(pictures)} masks for {len(files)} slices")
    by_stem = {path.stem: path for path in pictures}
    if any(path.stem not in by_stem for path in files):
        by_stem = {path.stem: picture for path, picture in zip(files, pictures, strict=True)}
    return [by_stem[one.path.stem] for one in stack.slices]


def _voxels(stack: Stack) -> NDArray[Any]:
    """The voxels; rescaled whole numbers (CT) as int16."""
    voxels, _ = read_stack(stack)
    limits = np.iinfo(np.int16)
    whole = voxels.dtype.kind == "f" and bool((np.rint(voxels) == voxels).all())
    if whole and limits.min <= voxels.min() and voxels.max() <= limits.max:
        return np.asarray(voxels, np.int16)
    return np.asarray(voxels)


def _mask(stack: Stack, pictures: list[Path], modality: str) -> NDArray[np.uint8]:
    """The masks of a stack's slices, (columns, rows, slices); a PNG's rows and columns are those of its DICOM slice.

    Raises:
        ValueError: when a mask is of another size or holds a grey value that stands for no organ.
    """
    mask = np.zeros(stack.shape, np.uint8)
    for index, path in enumerate(pictures):
        grey, _ = read_image(path)
        if grey.shape != stack.shape[:2]:
            raise ValueError(f"{path.name} has {_size(grey.shape)} pixels, its slice {_size(stack.shape[:2])}")
        values = np.unique(grey)
        organ = _CT_VALUES if modality == "CT" else _MR_VALUES
        if strange := [value for value in values.tolist() if organ.get(int(value)) is None]:
            raise ValueError(f"{path.name} holds grey values that stand for no organ: {brief(strange)}")
        table = np.zeros(int(values.max()) + 1, np.uint8)
        for value in values.tolist():
            table[int(value)] = organ[int(value)]
        mask[:, :, index] = table[grey.astype(np.intp)]
    return mask


_MR_VALUES = {0: 0} | {grey: organ for organ, (low, high) in _GREY.items() for grey in range(low + 1, high + 1)}
_CT_VALUES = {0: 0, 1: 1, 255: 1}


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
