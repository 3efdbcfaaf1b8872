"""Phantom of knee MR: exams of three planes with torn ligaments, torn menisci and other abnormality."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import nibabel as nib
import numpy as np

from medssl_monai.core import atomic_path, generator, make_folder
from medssl_monai.data.datalist import SUBJECT_PREFIX, Datalist, Item, Task
from medssl_monai.data.phantoms.knee.anatomy import draw_knee
from medssl_monai.data.phantoms.knee.dicom import write_dicom_series
from medssl_monai.data.phantoms.knee.findings import LABELS, draw_findings, label_sequence
from medssl_monai.data.phantoms.knee.image import PLANES, Series, render_series
from medssl_monai.data.phantoms.knee.sheet import knee_sheet
from medssl_monai.data.phantoms.registry import PHANTOMS, Option, Phantom, Recipe

DICOM_FOLDER = "dicom"


class KneeExams(Phantom):
    """Schematic knee MR, three series an exam, all of one anatomy sampled in thick slices with true affines.

    Size, side, pose, body, contrast, bias and noise vary and do not depend on the labels. A tear or another abnormality
    changes the anatomy in one place, so that it shows in a few slices of each plane. A subject is one exam.
    """

    summary: ClassVar[str] = "knee MR exams of 3 planes, with tears of ligament and meniscus"
    task: ClassVar[Task] = "multilabel"
    labels: ClassVar[Sequence[str]] = LABELS
    modality: ClassVar[str] = "MR"
    default_size: ClassVar[int] = 256
    smallest_size: ClassVar[int] = 32
    aliases: ClassVar[tuple[str, ...]] = ("--exams",)
    options: ClassVar[Mapping[str, Option]] = {
        "abnormal": Option(0.7, "share of exams with any finding", 0.0, 1.0),
        "acl": Option(0.3, "share of exams with a torn cruciate ligament", 0.0, 1.0),
        "meniscus": Option(0.35, "share of exams with a torn meniscus", 0.0, 1.0),
        "field_of_view": Option(154.0, "edge of a slice in mm; less for small images of the joint alone", 60.0, 400.0),
        "noise": Option(0.03, "standard deviation of the noise, 1 being the brightest fluid", 0.0, 1.0),
        "severity": Option(1.0, "factor of the size of lesions; more where images are small", 0.5, 2.5),
        "dicom": Option(0, "exams (the first ones) that are written as DICOM too, in dicom/EXAM/PLANE", low=0),
    }

    def items(self, recipe: Recipe) -> list[list[Item]]:
        """One item an exam: the three planes' files, the label, age, sex and side."""
        shares = {name: float(recipe.options[name]) for name in LABELS}
        labels = label_sequence(recipe.subjects, recipe.seed, **shares)
        return [[_exam_item(recipe.seed, exam, label)] for exam, label in enumerate(labels)]

    def write(self, recipe: Recipe, subject: int, items: Sequence[Item], folder: Path) -> None:
        """Write the three series of one exam."""
        for item in items:
            if not isinstance(item.label, tuple) or not isinstance(item.image, dict):
                raise ValueError(f"a knee exam has a 0/1 vector and three planes, got {item.label!r}, {item.image!r}")
            findings = draw_findings(item.label, recipe.seed, subject, float(recipe.options["severity"]))
            for plane, path in item.image.items():
                image, series = render_series(
                    findings, recipe.seed, subject, plane, recipe.size, float(recipe.options["field_of_view"]),
                    float(recipe.options["noise"]),
                )  # fmt: skip
                write_nifti_series(folder / path, image, series)
                if subject < int(recipe.options["dicom"]):
                    name = exam_name(subject)
                    target = folder / DICOM_FOLDER / name / plane
                    write_dicom_series(target, image, series, name, item.columns, self._origin(recipe))

    def sheet(self, datalist: Datalist, seed: int) -> np.ndarray:
        """One knee intact and with each kind of finding, in the three planes."""
        return knee_sheet(seed)

    def _origin(self, recipe: Recipe) -> str:
        """What an exam's files are a function of, beside its number."""
        options = {name: value for name, value in sorted(recipe.options.items()) if name != "dicom"}
        return f"{recipe.kind} {self.revision} {recipe.seed} {recipe.size} {options}"


PHANTOMS.register("knee")(KneeExams())


def exam_name(exam: int) -> str:
    """Name of an exam: ``E00007``."""
    return f"E{exam:05d}"


def write_nifti_series(path: Path, image: np.ndarray, series: Series) -> None:
    """Write a compressed NIfTI file, the same bytes every time.

    Args:
        path: the file, ``.nii.gz``.
        image: (columns, rows, slices), uint16.
        series: where the image lies.

    Raises:
        OutputError: when it cannot be written.
    """
    volume = nib.Nifti1Image(image, series.affine)  # type: ignore[no-untyped-call]
    volume.header.set_xyzt_units("mm")  # type: ignore[no-untyped-call]
    volume.set_qform(series.affine, 1)  # type: ignore[no-untyped-call]
    volume.set_sform(series.affine, 1)  # type: ignore[no-untyped-call]
    make_folder(path.parent)
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(volume.to_bytes(), 1, mtime=0))


def _exam_item(seed: int, exam: int, label: tuple[int, ...]) -> Item:
    rng = generator(seed, "knee", "patient", exam)
    knee = draw_knee(seed, exam, draw_findings(label, seed, exam))
    name = exam_name(exam)
    return Item(
        image={plane: f"exams/{name}/{plane}.nii.gz" for plane in PLANES},
        label=label,
        subject=f"{SUBJECT_PREFIX}{name}",
        columns={
            "age": int(np.clip(round(rng.normal(38, 14)), 12, 80)),
            "sex": ("female", "male")[int(rng.random() < 0.55)],
            "side": "right" if knee.right else "left",
        },
    )
