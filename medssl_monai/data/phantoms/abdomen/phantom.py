"""Phantom of abdominal MR: scans with masks of liver, kidneys and spleen, no two persons alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from medssl_monai.core import generator
from medssl_monai.data.datalist import SUBJECT_PREFIX, Datalist, Item, Task
from medssl_monai.data.phantoms.abdomen.anatomy import LABELS, draw_abdomen
from medssl_monai.data.phantoms.abdomen.image import ORIENTATIONS, draw_series, render_scan
from medssl_monai.data.phantoms.abdomen.sheet import abdomen_sheet
from medssl_monai.data.phantoms.knee.dicom import write_dicom_series
from medssl_monai.data.phantoms.knee.phantom import write_nifti_series
from medssl_monai.data.phantoms.registry import PHANTOMS, Option, Phantom, Recipe

DICOM_FOLDER = "dicom"
_ATTRIBUTES: Mapping[str, object] = {
    "BodyPartExamined": "ABDOMEN", "Laterality": "", "SeriesNumber": 1, "SeriesDescription": "axial T2 FS",
    "RepetitionTime": "2000", "EchoTime": "80",
}  # fmt: skip


class AbdomenScans(Phantom):
    """Schematic abdominal MR in thick axial slices with true affines, and the masks of four organs.

    Size, place, shape and tilt of the organs, build, contrast, bowel, bias and noise vary. A subject is one scan.
    """

    summary: ClassVar[str] = "abdominal MR scans with masks of liver, kidneys and spleen"
    task: ClassVar[Task] = "segmentation"
    labels: ClassVar[Mapping[int, str]] = LABELS
    modality: ClassVar[str] = "MR"
    default_size: ClassVar[int] = 256
    smallest_size: ClassVar[int] = 32
    options: ClassVar[Mapping[str, Option]] = {
        "field_of_view": Option(320.0, "edge of a slice in mm", 200.0, 500.0),
        "slice_spacing": Option(7.7, "distance of slices in mm; their number follows from it", 2.0, 40.0),
        "noise": Option(0.02, "standard deviation of the noise, 1 being the brightest fluid", 0.0, 1.0),
        "texture": Option(0.05, "strength of the texture inside tissues", 0.0, 0.5),
        "orientation": Option("axial", "how voxels are stored: axes as scanners have them, some flipped, or tilted; "
                              "mixed draws one of these a scan", choices=ORIENTATIONS),
        "lacking": Option(0.0, "share of scans in which a kidney or the spleen is absent", 0.0, 1.0),
        "dicom": Option(0, "scans (the first ones) that are written as DICOM too, in dicom/SCAN", low=0),
    }  # fmt: skip

    def items(self, recipe: Recipe) -> list[list[Item]]:
        """One item a scan: image, mask, age and sex, and the organ that lacks, if any."""
        return [[_scan_item(recipe, subject)] for subject in range(recipe.subjects)]

    def write(self, recipe: Recipe, subject: int, items: Sequence[Item], folder: Path) -> None:
        """Write one scan and its mask."""
        options = recipe.options
        person = draw_abdomen(recipe.seed, subject, float(options["lacking"]))
        series = draw_series(
            recipe.seed, person, recipe.size, float(options["field_of_view"]), float(options["slice_spacing"]),
            str(options["orientation"]),
        )  # fmt: skip
        image, mask = render_scan(recipe.seed, person, series, float(options["noise"]), float(options["texture"]))
        for item in items:
            if not isinstance(item.image, str) or not isinstance(item.label, str):
                raise ValueError(f"an abdominal scan has one image and one mask, got {item.image!r}, {item.label!r}")
            write_nifti_series(folder / item.image, image, series)
            write_nifti_series(folder / item.label, mask, series)
            if subject < int(options["dicom"]):
                name = scan_name(subject)
                write_dicom_series(
                    folder / DICOM_FOLDER / name, image, series, name, item.columns, self._origin(recipe), _ATTRIBUTES
                )

    def sheet(self, datalist: Datalist, seed: int) -> np.ndarray:
        """Slices of a few scans from the lowest to the highest, with the organs' outlines."""
        return abdomen_sheet(seed)

    def _origin(self, recipe: Recipe) -> str:
        """What a scan's files are a function of, beside its number."""
        options = {name: value for name, value in sorted(recipe.options.items()) if name != "dicom"}
        return f"{recipe.kind} {self.revision} {recipe.seed} {recipe.size} {options}"


PHANTOMS.register("abdomen")(AbdomenScans())


def scan_name(subject: int) -> str:
    """Name of a scan: ``A00007``."""
    return f"A{subject:05d}"


def _scan_item(recipe: Recipe, subject: int) -> Item:
    rng = generator(recipe.seed, "abdomen", "patient", subject)
    person = draw_abdomen(recipe.seed, subject, float(recipe.options["lacking"]))
    name = scan_name(subject)
    columns = {
        "age": int(np.clip(round(rng.normal(45, 15)), 18, 85)),
        "sex": ("female", "male")[int(rng.random() < 0.5)],
    }
    return Item(
        image=f"scans/{name}/image.nii.gz",
        label=f"scans/{name}/label.nii.gz",
        subject=f"{SUBJECT_PREFIX}{name}",
        columns={**columns, "lacking": person.lacking} if person.lacking else columns,
    )
